"""Sweep files on the dataset ``cycle``, and searches in a process of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from synthetic import SMALL_SASREC, cycle_settings, write_cycle

from recbole_llm.tuning.ledger import TRIAL_FILE, Trial, read_trials

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 240.0


def write_sweep(folder: Path, epochs: int, **content) -> Path:
    """A sweep of SASRecAll on ``cycle`` below ``folder``; trials run all their epochs unless a scheduler ends them."""
    settings = cycle_settings(write_cycle(folder)) | SMALL_SASREC | {"epochs": epochs, "stopping_step": 10_000}
    del settings["seed"]
    settings |= content.pop("settings", {})
    plain = {"model": "SASRecAll", "dataset": "cycle", "seeds": 1, "search": "random", "scheduler": "fifo"}
    plain |= {"space": {"learning_rate": {"loguniform": [0.0005, 0.05]}}, "settings": settings} | content
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return file


_DRIVER = """
import sys
from pathlib import Path
from recbole_llm.tuning.search import Resources, search
from recbole_llm.tuning.sweep import make_sweep
file, out, resume = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["--resume"]
search(make_sweep(file, None, {}, {}), out, Resources(), resume=resume, say=lambda line: print(line, flush=True))
"""


def start(file: Path, out: Path, *resume: str) -> subprocess.Popen:
    """The search alone, in a process of its own."""
    command = [sys.executable, "-c", _DRIVER, str(file), str(out), *resume]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out, err


def wait_for(out: Path, ready: Callable[[list[Trial]], bool]) -> list[Trial]:
    """Trials of a search once they are as wanted."""
    end = time.monotonic() + PATIENCE_S
    while not ready(found := read_trials(out)):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


def records(out: Path) -> dict[str, str]:
    """Trial -> its record as it stands in its file."""
    return {path.parent.name: path.read_text(encoding="utf-8") for path in (out / "trials").glob(f"*/{TRIAL_FILE}")}
