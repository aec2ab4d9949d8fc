"""A search with and without stopping of trials that lag behind, and what a trial costs over a plain run.

    python benchmarks/tune.py [--full] [--trials 16] [--model AGLRec] [--dataset ml-100k] [--json] [--out FILE]

The same points (random search, one seed) under ASHA and under FIFO: epochs trained, and the best validation metric.
Overhead: from the end of the trial before in the same process to the end of a trial, less the seconds in which it
trained and validated; the median over the trials of FIFO. So all that the search adds is counted, and not in its favour
that a trial, unlike a plain run, need not load its data. A core a trial.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import measured

SETTINGS = {"epochs": 6}  # without --full: enough to see that it works


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="16 trials of all epochs")
    parser.add_argument("--model", default="AGLRec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--trials", type=int, help="default: 16, without --full 4")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--out", type=Path, help="write the record to this file too")
    args = parser.parse_args()

    from recbole_llm import compat

    compat.apply()
    from recbole_llm.tuning.sweep import make_sweep

    trials = args.trials or (16 if args.full else 4)
    settings = {} if args.full else SETTINGS
    found = {}
    for scheduler in ("fifo", "asha"):
        over = {"model": args.model, "dataset": args.dataset, "trials": trials, "search": "random"}
        sweep = make_sweep(None, None, over | {"scheduler": scheduler}, settings)
        found[scheduler], seconds = searched(sweep)
        best = max(t.order for t in found[scheduler] if t.order is not None)
        epochs = sum(t.epochs for t in found[scheduler])
        print(f"{scheduler}: {epochs} epochs, best validation {best:.4f}, {seconds:.0f} s", flush=True)
    record = {
        "model": args.model,
        "dataset": args.dataset,
        "trials": trials,
        "fifo_epochs": sum(t.epochs for t in found["fifo"]),
        "asha_epochs": sum(t.epochs for t in found["asha"]),
        "fifo_best": max(t.order for t in found["fifo"] if t.order is not None),
        "asha_best": max(t.order for t in found["asha"] if t.order is not None),
        "trial_overhead_s": overhead(found["fifo"]),
        "machine": measured.machine(),
    }
    print(f"epochs under asha: {record['asha_epochs'] / record['fifo_epochs']:.0%} of those under fifo")
    print(f"overhead of a trial after the first: {record['trial_overhead_s']:.2f} s")
    measured.finish(record, args.out, args.json)


def searched(sweep) -> tuple[list, float]:
    """Trials of a search, and its seconds."""
    from recbole_llm.tuning.search import Resources, search

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trials = search(sweep, Path(folder), Resources(), resume=False, say=print)
    return trials, time.perf_counter() - start


def overhead(trials) -> float:
    """Median seconds between the ends of neighbours that the later one did not train or validate. s.

    Trials run in lanes, a process each; the first of a lane imports torch and is left out.
    """
    lanes: list[list] = []
    for trial in sorted(trials, key=lambda t: t.started):
        free = [lane for lane in lanes if lane[-1].ended <= trial.started]
        if free:
            max(free, key=lambda lane: lane[-1].ended).append(trial)
        else:
            lanes.append([trial])
    pairs = [pair for lane in lanes for pair in zip(lane, lane[1:], strict=False)]
    return statistics.median(trial.ended - before.ended - trial.seconds for before, trial in pairs)


if __name__ == "__main__":
    main()
