"""Encoding the content texts of ml-100k's films: sentence_transformers' own encode() against ours with its store.

    python benchmarks/encode.py                  # 150 of the films, within a minute
    python benchmarks/encode.py --full --out benchmarks/results/encode.json      # all 1,682

Each side lives in a process of its own with the model loaded; they work in turn, medians after a warm-up. Ours writes
to an empty store each time. ``again_s`` is the whole command ``recbole-llm encode`` a second time, from the start of
the interpreter to the written file, when the store has every row.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import measured
import numpy as np

TEXTS = measured.REPOSITORY / "dataset_atomic" / "ml-100k" / "item_facets.jsonl"
FEW = 150


def texts_of(n: int) -> dict[str, str]:
    """Token -> text of the first n films."""
    rows = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()[:n]]
    return {row["item_id"]: row["content"] for row in rows}


def child(side: str, n: str, folder: str) -> None:
    """Serve one side; the last rows lie in ``<folder>/<side>.npy``."""
    from recbole_llm.encoding.choose import Options, make_encoder
    from recbole_llm.encoding.find import find_model
    from recbole_llm.encoding.rows import encode_rows, make_plan
    from recbole_llm.encoding.store import RowStore

    texts = texts_of(int(n))
    if side == "plain":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(find_model("all-MiniLM-L6-v2").folder), device="cpu")

        def encode() -> np.ndarray:
            return model.encode(list(texts.values()), show_progress_bar=False)

    else:
        encoder = make_encoder(Options(), "text", about_users=False)
        encoder.encode(["the model is loaded"])

        def encode() -> np.ndarray:
            with tempfile.TemporaryDirectory() as place, RowStore(Path(place) / "store") as store:
                plan = make_plan(texts, encoder, store, np.dtype(np.float32), 64)
                return encode_rows(plan, encoder, store, np.dtype(np.float32)).embedding

    def work() -> dict:
        np.save(Path(folder) / f"{side}.npy", encode())
        return {}

    measured.serve(work)


def again(n: int, folder: Path) -> float:
    """Seconds of the command when nothing has changed."""
    file = folder / "texts.jsonl"
    lines = [json.dumps({"item_id": token, "content": text}) for token, text in texts_of(n).items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    program = "import sys; from recbole_llm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "encode", "--dataset", "ml-100k", "--texts", str(file), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(measured.REPOSITORY)}
    seconds = []
    for _ in range(4):  # the first one fills the store
        start = time.perf_counter()
        subprocess.run([*command, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def run(n: int, repeats: int) -> dict:
    """Measure both sides in turn; the first round warms up."""
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory(prefix="encode_") as folder:
        with ExitStack() as stack:
            sides = {side: stack.enter_context(measured.Side(__file__, side, n, folder)) for side in seconds}
            for _ in range(repeats + 1):
                for side, process in sides.items():
                    seconds[side].append(process.ask()["seconds"])
        plain, ours = (np.load(Path(folder) / f"{side}.npy").astype(np.float64) for side in seconds)
        again_s = again(n, Path(folder))
    cosine = (plain * ours).sum(1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(ours, axis=1)
    plain_s, ours_s = (statistics.median(seconds[side][1:]) for side in ("plain", "ours"))
    return {
        "rows": n,
        "plain_s": plain_s,
        "ours_s": ours_s,
        "ratio": ours_s / plain_s,
        "again_s": again_s,
        "min_cosine": float(cosine.min()),
        "repeats": repeats,
        "machine": measured.machine(),
    }


def main() -> None:
    """Parse the command line, measure, report."""
    args = measured.arguments(__doc__, f"all 1,682 films instead of {FEW}")
    record = run(1682 if args.full else FEW, args.repeats)
    print(f"{record['rows']} texts: sentence_transformers {record['plain_s']:.2f} s, ours {record['ours_s']:.2f} s")
    print(f"ratio {record['ratio']:.3f}, least cosine {record['min_cosine']:.6f}")
    print(f"the command again, nothing changed: {record['again_s']:.2f} s")
    measured.finish(record, args.out, args.json)


if __name__ == "__main__":
    if (arguments := measured.child_arguments()) is not None:
        child(*arguments)
    else:
        main()
