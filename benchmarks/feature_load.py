"""Loading an embedding feature from text: RecBole's own loader against the feature store.

    python benchmarks/feature_load.py                 # 2,500 x 512, within a minute
    python benchmarks/feature_load.py --full --out benchmarks/results/feature_load.json      # 20,000 x 1,536

Three loads of the same numbers, each in a fresh process after all imports, alternating, medians:

- recbole: ``Dataset`` with ``additional_feat_suffix``, ``load_col``, ``alias_of_item_id`` and ``preload_weight``, then
  ``get_preload_weight``; the time of the same ``Dataset`` without the feature, taken before in the same process, is
  subtracted.
- first load: ``open_feature`` on the text file without a conversion, then ``align``.
- reload: the same with the conversion in place.

The pages of all files are in the system's cache. Memory is the peak of ``RssAnon`` (anonymous pages; a memory map of a
file is not among them), polled from outside every 2 ms, over its value just before the load; ratios are over the raw
float32 matrix.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import measured
import numpy as np

NAME = "bench"
SIDES = ("recbole", "first", "reload")


def write_dataset(root: Path, n: int, dim: int) -> None:
    """Write ``bench.inter`` and the same feature once under RecBole's alias and once under ``item_id``."""
    rng = np.random.default_rng(0)
    folder = root / NAME
    folder.mkdir(parents=True)
    items = "\n".join(f"u{item % 97}\ti{item}" for item in range(n))
    (folder / f"{NAME}.inter").write_text(f"user_id:token\titem_id:token\n{items}\n")
    # 7 digits as an encoder's float32 prints; drawn from a pool, since formatting each number would take a minute
    pool = np.array([f"{number:.7g}" for number in rng.standard_normal(100_000)], dtype=object)
    with (folder / f"{NAME}.emb").open("w") as theirs, (folder / f"{NAME}.vector").open("w") as ours:
        theirs.write("iid:token\temb:float_seq\n")
        ours.write("item_id:token\tvector:float_seq\n")
        for item in rng.permutation(n):
            row = f"i{item}\t{' '.join(pool[rng.integers(len(pool), size=dim)])}\n"
            theirs.write(row)
            ours.write(row)


def recbole_side(root: Path) -> tuple:
    """Returns load() -> matrix, and the seconds that a load takes without the feature."""
    from recbole_llm import compat

    compat.apply()
    from recbole.config import Config
    from recbole.data.dataset import Dataset

    def dataset(**settings: object) -> Dataset:
        base = {"data_path": str(root), "load_col": {"inter": ["user_id", "item_id"]}, "show_progress": False}
        return Dataset(Config(model="BPR", dataset=NAME, config_dict=base | settings))

    dataset()  # warm: the first one also pays for lazy imports
    start = time.perf_counter()
    dataset()
    without_s = time.perf_counter() - start

    def load() -> np.ndarray:
        feature = {
            "load_col": {"inter": ["user_id", "item_id"], "emb": ["iid", "emb"]},
            "additional_feat_suffix": ["emb"],
            "alias_of_item_id": ["iid"],
            "preload_weight": {"iid": "emb"},
        }
        return dataset(**feature).get_preload_weight("iid")

    return load, without_s


def our_side(root: Path, n: int) -> tuple:
    """Returns load() -> matrix, and 0."""
    from recbole_llm.data.feature_store import open_feature

    tokens = ["[PAD]", *(f"i{item}" for item in range(n))]
    return lambda: open_feature(root / NAME / f"{NAME}.vector", id_field="item_id").align(tokens).matrix, 0.0


def child(side: str, root: str, n: str, dim: str) -> None:
    """One load; RecBole's seconds without the feature are given beside it."""
    load, without_s = recbole_side(Path(root)) if side == "recbole" else our_side(Path(root), int(n))
    kept: list[np.ndarray] = []

    def work() -> dict:
        kept.append(load())
        return {"without_s": without_s}

    measured.serve(work)
    # after the parent has stopped reading the memory: the check makes an array of its own
    assert kept[0].shape == (int(n) + 1, int(dim)) and np.isfinite(kept[0]).all() and not kept[0][0].any()


def measure(side: str, root: Path, n: int, dim: int) -> tuple[float, int]:
    """Seconds and peak extra anonymous bytes of one load in a fresh process."""
    conversion = root / NAME / f".{NAME}.vector.cache.safetensors"
    if side == "first":
        conversion.unlink(missing_ok=True)
    assert side != "reload" or conversion.is_file()
    with measured.Side(__file__, side, root, n, dim, cwd=root) as process:
        one = process.ask()
    return one["seconds"] - one["without_s"], one["peak_bytes"]


def run(n: int, dim: int, repeats: int) -> dict:
    """Measure all sides, alternating; the first round warms up and is not counted."""
    raw = n * dim * 4
    root = Path(tempfile.mkdtemp(prefix="feature_load_"))
    try:
        write_dataset(root, n, dim)
        results: dict[str, list[tuple[float, int]]] = {side: [] for side in SIDES}
        for turn in range(repeats + 1):
            for side in SIDES:
                one = measure(side, root, n, dim)
                if turn:
                    results[side].append(one)
        text_bytes = (root / NAME / f"{NAME}.vector").stat().st_size
    finally:
        shutil.rmtree(root)
    seconds = {side: statistics.median(one[0] for one in results[side]) for side in SIDES}
    peak = {side: statistics.median(one[1] for one in results[side]) for side in SIDES}
    return {
        "rows": n,
        "dim": dim,
        "text_bytes": text_bytes,
        "raw_bytes": raw,
        "repeats": repeats,
        "recbole_s": seconds["recbole"],
        "first_load_s": seconds["first"],
        "reload_s": seconds["reload"],
        "recbole_over_first": seconds["recbole"] / seconds["first"],
        "recbole_over_reload": seconds["recbole"] / seconds["reload"],
        "recbole_peak_ratio": peak["recbole"] / raw,
        "first_peak_ratio": peak["first"] / raw,
        "peak_ratio": peak["reload"] / raw,
        "machine": measured.machine(),
    }


def print_table(record: dict) -> None:
    """The record for people."""
    print(f"{record['rows']} x {record['dim']}, {record['text_bytes'] / 2**20:.0f} MiB of text, {record['machine']}")
    print(f"{'load':<12}{'seconds':>10}{'faster':>9}{'memory / raw':>15}")
    print(f"{'RecBole':<12}{record['recbole_s']:>10.3f}{1:>8.1f}x{record['recbole_peak_ratio']:>15.2f}")
    for name, key, over, memory in (
        ("first", "first_load_s", "recbole_over_first", "first_peak_ratio"),
        ("later", "reload_s", "recbole_over_reload", "peak_ratio"),
    ):
        print(f"{name:<12}{record[key]:>10.3f}{record[over]:>8.1f}x{record[memory]:>15.2f}")


def main() -> None:
    """Parse the command line, measure, report."""
    args = measured.arguments(__doc__, "20,000 x 1,536 instead of 2,500 x 512")
    record = run(*((20_000, 1536) if args.full else (2_500, 512)), args.repeats)
    print_table(record)
    measured.finish(record, args.out, args.json)


if __name__ == "__main__":
    if (arguments := measured.child_arguments()) is not None:
        child(*arguments)
    else:
        main()
