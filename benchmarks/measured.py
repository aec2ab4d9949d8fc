"""What the benchmarks share: one side in a process of its own, asked to work, its memory watched from outside."""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("RECBOLE_LLM_SHARED", REPOSITORY.parent / "shared"))
_FLAG = "--child"


class Side:
    """A process that runs ``script --child arguments`` and works when asked; a context manager.

    Attributes:
        rest_bytes: anonymous resident memory before the first work.
    """

    def __init__(self, script: str, *arguments: object, cwd: Path | None = None) -> None:
        self.name = " ".join(map(str, arguments))
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, script, _FLAG, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=cwd
        )

    def __enter__(self) -> "Side":
        while line := self._process.stdout.readline():
            if line == "ready\n":
                self.rest_bytes = rss_anon(self._process.pid)
                return self
        raise SystemExit(f"the side '{self.name}' ended with code {self._process.wait()} before it was ready")

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._process.stdin.close()
        code = self._process.wait()
        if code and kind is None:  # a side may check what it made after the last answer
            raise SystemExit(f"the side '{self.name}' ended with code {code}")

    def ask(self) -> dict:
        """One piece of work: what it answers, and ``peak_bytes``, the peak of anonymous resident memory over rest."""
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.append(self._process.stdout.readline()))
        reader.start()
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        peak = self.rest_bytes
        while reader.is_alive():
            peak = max(peak, rss_anon(self._process.pid))
            time.sleep(0.002)
        if not lines[0]:
            raise SystemExit(f"the side '{self.name}' ended with code {self._process.wait()}")
        return json.loads(lines[0]) | {"peak_bytes": peak - self.rest_bytes}


def child_arguments() -> list[str] | None:
    """Arguments of a child's process, taken off the command line, which RecBole reads too; None in the parent."""
    if sys.argv[1:2] != [_FLAG]:
        return None
    arguments = sys.argv[2:]
    sys.argv = sys.argv[:1]
    return arguments


def serve(work: Callable[[], dict]) -> None:
    """In a child: work once a line, answer with the seconds and what the work returned."""
    print("ready", flush=True)
    while sys.stdin.readline():
        start = time.perf_counter()
        answer = work()
        print(json.dumps({"seconds": time.perf_counter() - start} | answer), flush=True)


def rss_anon(pid: int) -> int:
    """Anonymous resident bytes of a process; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def machine() -> str:
    """What a record says of where it was measured."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def arguments(description: str, full: str) -> argparse.Namespace:
    """The options that every benchmark of two sides takes. full: what --full measures."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help=full)
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds after one warm-up; default: 5")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--out", type=Path, help="write the record to this file too")
    return parser.parse_args()


def finish(record: dict, out: Path | None, as_json: bool) -> None:
    """Write the record to a file, print it as the last line: whichever is asked for."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n")
    if as_json:
        print(json.dumps(record))
