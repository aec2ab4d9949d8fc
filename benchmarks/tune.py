"""A search with and without stopping of trials that lag behind, and what a trial costs over a plain run.

    python benchmarks/tune.py [--full] [--trials 16] [--model AGLRec] [--dataset ml-100k] [--json] [--out FILE]

The same points (random search, one seed) under ASHA and under FIFO: epochs trained, and the best validation metric.
Overhead: from the end of the trial before in the same process to the end of a trial, less the time of a plain run of
its settings in a warm process; the median over the trials of FIFO. A core a trial.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
        "trial_overhead_s": overhead(sweep, found["fifo"]),
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


def overhead(sweep, trials) -> float:
    """Median seconds between the ends of neighbours, less what a plain run of the trial's settings takes. s.

    Trials run in lanes, a process each; the first of a lane imports torch and is left out. Plain runs go two at a time
    as well, so that both sides share the machine in the same way.
    """
    lanes: list[list] = []
    for trial in sorted(trials, key=lambda t: t.started):
        free = [lane for lane in lanes if lane[-1].ended <= trial.started]
        if free:
            max(free, key=lambda lane: lane[-1].ended).append(trial)
        else:
            lanes.append([trial])
    pairs = [pair for lane in lanes for pair in zip(lane, lane[1:], strict=False)]
    with ProcessPoolExecutor(len(lanes), mp_context=get_context("spawn")) as pool:
        list(pool.map(plain_run, [(sweep, lane[0].point) for lane in lanes]))  # warm-up
        plain = list(pool.map(plain_run, [(sweep, trial.point) for _, trial in pairs]))
    took = [trial.ended - before.ended for before, trial in pairs]
    return statistics.median(a - b for a, b in zip(took, plain, strict=True))


def plain_run(task: tuple) -> float:
    """Seconds of a run of a point without its test, data included."""
    import torch

    from recbole_llm import compat

    compat.apply()
    torch.set_num_threads(1)
    from recbole_llm.config import build_config
    from recbole_llm.experiment.validate import validate

    sweep, point = task
    start = time.perf_counter()
    validate(build_config(sweep.model, sweep.dataset, (), sweep.settings_at(point) | {"use_gpu": False}, ()))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
