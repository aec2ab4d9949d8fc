"""Time and memory of one training epoch: a model of this project against RecBole's own.

    python benchmarks/epoch_time.py --model SASRecAll [--full] [--json] [--out FILE]

Both sides run in this process tree with the same width, depth, heads and L, each with the batches it would use.
RecBole's epoch is extrapolated from whole batches (its one-row-a-prefix epoch takes minutes), which the table says.
RecBole's side is measured twice: as released, where importing its sequential models leaves torch's anomaly detection
on, and with this project's patch that switches it off. With ``--full`` both then train for the same wall time from a
fresh start (RecBole with the patch), and validation NDCG@10 is compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recbole_llm.data.files import atomic_writer

BASELINES = {"SASRecAll": "SASRec"}
RATIO = {"hidden_size": 64, "n_layers": 2, "n_heads": 2, "inner_size": 256}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="SASRecAll", choices=sorted(BASELINES))
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--repeats", type=int, default=5, help="timed epochs of ours and batches of RecBole's")
    parser.add_argument("--full", action="store_true", help="also train both for the same wall time")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--out", type=Path, help="write the record here")
    parser.add_argument("--side", choices=("ours", "recbole", "recbole-patched"), help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(_side(args)))
        return
    record = compare(args)
    print(f"{args.model} against RecBole's {record['baseline']}, {args.dataset}, same width, depth, heads and L")
    print(f"  epoch: ours {record['ours_s']:.2f} s, RecBole {record['recbole_s']:.1f} s ({record['recbole_note']})")
    print(f"  ratio: {record['ratio']:.4f} = 1/{1 / record['ratio']:.0f}")
    patched = record["ours_s"] / record["recbole_patched_s"]
    print(f"  with anomaly detection off: RecBole {record['recbole_patched_s']:.1f} s, ratio 1/{1 / patched:.0f}")
    print(
        f"  peak memory: ours {record['ours_peak_bytes'] >> 20} MiB, RecBole {record['recbole_peak_bytes'] >> 20} MiB"
    )
    if "equal_time" in record:
        same = record["equal_time"]
        print(
            f"  after {same['wall_s']:.0f} s of training each: validation NDCG@10 {same['ours_ndcg@10']:.4f} against "
            f"{same['recbole_ndcg@10']:.4f}"
        )
    if args.out:
        with atomic_writer(args.out) as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())
    if args.json:
        print(json.dumps(record))


def compare(args) -> dict:
    """Alternate the sides in fresh processes: once for the warm-up, then the measured ones."""
    ours = _child(args, "ours", 0.0)
    theirs = _child(args, "recbole", 0.0)
    patched = _child(args, "recbole-patched", 0.0)
    again = _child(args, "ours", 0.0)  # before and after, so that a change of the machine's speed shows
    ours["epoch_s"] = statistics.median(ours["seconds"] + again["seconds"])
    record = {
        "model": args.model,
        "baseline": BASELINES[args.model],
        "dataset": args.dataset,
        "ours_s": ours["epoch_s"],
        "ours_each_s": [ours["seconds"], again["seconds"]],
        "recbole_s": theirs["epoch_s"],
        "recbole_patched_s": patched["epoch_s"],
        "ratio": ours["epoch_s"] / theirs["epoch_s"],
        "ours_peak_bytes": ours["peak_bytes"],
        "recbole_peak_bytes": theirs["peak_bytes"],
        "recbole_note": theirs["note"],
        "settings": RATIO,
        "versions": ours["versions"],
        "machine": ours["machine"],
    }
    if args.full:
        budget = patched["epoch_s"]  # one epoch of RecBole's, the least it can be judged by
        a, b = _child(args, "ours", budget), _child(args, "recbole-patched", budget)
        record["equal_time"] = {"wall_s": budget, "ours_ndcg@10": a["valid"], "recbole_ndcg@10": b["valid"]}
    return record


def _child(args, side: str, budget: float) -> dict:
    command = [sys.executable, __file__, "--model", args.model, "--dataset", args.dataset]
    command += ["--repeats", str(args.repeats), "--side", side, "--budget", str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} side failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _side(args) -> dict:
    """Measure one side in this process: median epoch, or validation NDCG@10 after ``budget`` seconds of training."""
    import resource

    import torch

    from recbole_llm import compat
    from recbole_llm.config import build_config
    from recbole_llm.experiment.data import build_data, eval_data, train_loader
    from recbole_llm.experiment.record import machine, versions
    from recbole_llm.registry import resolve_model
    from recbole_llm.trainer.hooks import hooked

    compat.apply()
    name = args.model if args.side == "ours" else BASELINES[args.model]
    # dropout of the RecBole side is its own default; what is compared is the work of an epoch
    settings = RATIO | {"use_gpu": False, "show_progress": False, "checkpoint_dir": tempfile.mkdtemp()}
    config = build_config(name, args.dataset, (), settings, ())
    data = build_data(config)
    loader = train_loader(config, data)
    torch.manual_seed(0)
    torch.autograd.set_detect_anomaly(args.side == "recbole")  # as RecBole's sine.py leaves it
    model = resolve_model(name)(config, data.train)
    from recbole.trainer import Trainer

    trainer = hooked(Trainer)(config, model)
    if args.budget:
        return {"valid": _train_for(args.budget, trainer, loader, eval_data(config, data, "valid"))}
    if args.side == "ours":
        seconds = []
        for epoch in range(args.repeats + 1):
            start = time.perf_counter()
            trainer._train_epoch(loader, epoch)
            seconds.append(time.perf_counter() - start)
        seconds, note = seconds[1:], f"median of {args.repeats} epochs"
        epoch_s = statistics.median(seconds)
    else:
        times, start = [], time.perf_counter()
        for k, batch in enumerate(loader):  # one batch a repeat, after one for the warm-up
            trainer.optimizer.zero_grad()
            model.train().calculate_loss(batch).backward()
            trainer.optimizer.step()
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
            if k == args.repeats:
                break
        seconds = [t * len(loader) for t in times[1:]]
        epoch_s = statistics.median(seconds)
        note = f"median of {args.repeats} whole batches x {len(loader)} batches of {config['train_batch_size']} rows"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured = {"epoch_s": epoch_s, "seconds": seconds, "peak_bytes": peak, "note": note}
    return measured | {"versions": versions(), "machine": machine("cpu")}


def _train_for(budget: float, trainer, loader, valid) -> float:
    """Best validation NDCG@10 within ``budget`` seconds of training (evaluation not counted)."""
    best, spent = 0.0, 0.0
    while spent < budget:
        start = time.perf_counter()
        trainer.model.train()
        for batch in loader:
            trainer.optimizer.zero_grad()
            trainer.model.calculate_loss(batch).backward()
            trainer.optimizer.step()
            if spent + time.perf_counter() - start > budget:
                break
        spent += time.perf_counter() - start
        best = max(best, trainer.evaluate(valid, load_best_model=False)["ndcg@10"])
    return best


if __name__ == "__main__":
    main()
