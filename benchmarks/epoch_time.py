"""Time and memory of one training epoch: a model of this project against RecBole's own.

    python benchmarks/epoch_time.py --model SASRecAll [--full] [--json] [--out FILE]
    python benchmarks/epoch_time.py --model AGLRec | EmerGLLMRec [--dataset ml-1m] [--json] [--out FILE]

Both sides run in this process tree. RecBole's epoch is extrapolated from whole batches (it can take minutes), which
the table says. With ``--full`` both then train for the same wall time from a fresh start, and validation NDCG@10 is
compared.

SASRecAll and RecBole's SASRec: same width, depth, heads and L, each with the batches it would use. RecBole's side is
measured twice: as released, where importing its sequential models leaves torch's anomaly detection on, and with this
project's patch that switches it off (which is what then trains).

AGLRec with texts of items and users and RecBole's LightGCN: same width, layers, batches and negatives, that is BPR
with one negative; beside it AGLRec as it comes, by softmax. On ml-1m the texts are random rows: only their size matters
here.

EmerGLLMRec and RecBole's LightGCN in the same way, both by BPR; beside it LLMRec, which is it without the branch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from recbole_llm.data.files import atomic_writer


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        baseline: model of RecBole. settings: of both sides. ours: of our side alone.
        sides: measured; "ours" comes again at the end, so that a change of the machine's speed shows; "backbone" is the
            model named there, of this project too.
        same: what both have in common, for the table.
    """

    baseline: str
    settings: dict
    ours: dict
    sides: tuple[str, ...]
    same: str
    backbone: str = ""
    features: tuple[str, ...] = ("text",)  # of ml-1m


CASES = {
    "SASRecAll": Case(
        "SASRec",
        {"hidden_size": 64, "n_layers": 2, "n_heads": 2, "inner_size": 256},
        {},
        ("ours", "recbole", "recbole-patched"),
        "width, depth, heads and L",
    ),
    "AGLRec": Case(
        "LightGCN",
        {"embedding_size": 64, "n_layers": 2, "train_batch_size": 2048},
        {"loss": "bpr"},
        ("ours", "recbole", "ours-default"),
        "width, layers, batches and negatives",
    ),
    "EmerGLLMRec": Case(
        "LightGCN",
        {"embedding_size": 64, "n_layers": 2, "train_batch_size": 2048},
        {},
        ("ours", "recbole", "backbone"),
        "width, layers, batches and negatives",
        "LLMRec",
        ("content", "theme", "quality", "genre", "visual", "director", "country", "language", "mood", "style"),
    ),
}
TEXT_ROWS = 384  # of the random texts
_AT_MOST_S = 30.0  # RecBole's batches beyond the repeats: memory is that of an epoch too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="SASRecAll", choices=sorted(CASES))
    parser.add_argument("--dataset", default="ml-100k", choices=("ml-100k", "ml-1m"))
    parser.add_argument("--repeats", type=int, default=5, help="timed epochs of ours, least batches of RecBole's")
    parser.add_argument("--full", action="store_true", help="also train both for the same wall time")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--out", type=Path, help="write the record here")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--data-path", default="dataset", help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(_side(args)))
        return
    with tempfile.TemporaryDirectory(prefix="epoch_time_") as folder:
        if args.dataset == "ml-1m":
            args.data_path = folder
            _write_ml_1m(Path(folder), CASES[args.model].features)
        record = compare(args)
    print(f"{args.model} against RecBole's {record['baseline']}, {args.dataset}, same {CASES[args.model].same}")
    print(f"  epoch: ours {record['ours_s']:.2f} s, RecBole {record['recbole_s']:.1f} s ({record['recbole_note']})")
    print(f"  ratio: {record['ratio']:.4f} = 1/{1 / record['ratio']:.0f}")
    if "recbole_patched_s" in record:
        patched = record["ours_s"] / record["recbole_patched_s"]
        print(f"  with anomaly detection off: RecBole {record['recbole_patched_s']:.1f} s, ratio 1/{1 / patched:.0f}")
    if "backbone_s" in record:
        name, seconds = CASES[args.model].backbone, record["backbone_s"]
        print(f"  {name}, which it is without the branch: {seconds:.2f} s, ratio {record['ours_s'] / seconds:.2f}")
    if "ours_default_s" in record:
        print(f"  {args.model} as it comes: {record['ours_default_s']:.2f} s")
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
    case = CASES[args.model]
    measured = {side: _child(args, side, 0.0) for side in case.sides}
    again = _child(args, "ours", 0.0)
    ours, theirs = measured["ours"], measured["recbole"]
    ours["epoch_s"] = statistics.median(ours["seconds"] + again["seconds"])
    record = {
        "model": args.model,
        "baseline": case.baseline,
        "dataset": args.dataset,
        "ours_s": ours["epoch_s"],
        "ours_each_s": [ours["seconds"], again["seconds"]],
        **{f"{side.replace('-', '_')}_s": m["epoch_s"] for side, m in measured.items() if side != "ours"},
        "ratio": ours["epoch_s"] / theirs["epoch_s"],
        "ours_peak_bytes": ours["peak_bytes"],
        "recbole_peak_bytes": theirs["peak_bytes"],
        "recbole_note": theirs["note"],
        "settings": case.settings | case.ours,
        "versions": ours["versions"],
        "machine": ours["machine"],
    }
    if args.full:
        side = "recbole-patched" if "recbole-patched" in measured else "recbole"
        budget = measured[side]["epoch_s"]  # one epoch of RecBole's, the least it can be judged by
        a, b = _child(args, "ours", budget), _child(args, side, budget)
        record["equal_time"] = {"wall_s": budget, "ours_ndcg@10": a["valid"], "recbole_ndcg@10": b["valid"]}
    return record


def _write_ml_1m(root: Path, features: tuple[str, ...]) -> None:
    """Interactions of ml-1m, and features with a random row for each of its items."""
    import numpy as np
    from evaluation import write_ml_1m

    from recbole_llm.data.feature_file import save_feature

    write_ml_1m(root, full=True)
    with (root / "ml-1m" / "ml-1m.inter").open(encoding="utf-8") as file:
        place = [column.split(":")[0] for column in next(file).rstrip().split("\t")].index("item_id")
        items = sorted({line.split("\t")[place] for line in file})
    rng = np.random.default_rng(0)
    for name in features:
        rows = rng.normal(size=(len(items), TEXT_ROWS)).astype(np.float16)
        save_feature(root / "ml-1m" / f"ml-1m.{name}.safetensors", items, rows, "item_id", {"encoder": "random"})


def _child(args, side: str, budget: float) -> dict:
    command = [sys.executable, __file__, "--model", args.model, "--dataset", args.dataset]
    command += ["--repeats", str(args.repeats), "--side", side, "--budget", str(budget)]
    command += ["--data-path", args.data_path]
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
    from recbole_llm.experiment.data import build_data, eval_data, release_features, train_loader
    from recbole_llm.experiment.record import machine, versions
    from recbole_llm.registry import resolve_model
    from recbole_llm.trainer.hooks import hooked

    compat.apply()
    case, own = CASES[args.model], not args.side.startswith("recbole")
    name = case.baseline if not own else case.backbone if args.side == "backbone" else args.model
    # dropout of the RecBole side is its own default; what is compared is the work of an epoch
    settings = case.settings | {"use_gpu": False, "show_progress": False, "checkpoint_dir": tempfile.mkdtemp()}
    settings |= {"data_path": args.data_path} | (case.ours if args.side == "ours" else {})
    if case.baseline == "LightGCN":
        settings["protocol"] = "rs-full"
    if args.dataset == "ml-1m":
        settings["load_col"] = {"inter": ["user_id", "item_id", "rating"]}
        settings["features"] = {feature: {"side": "item"} for feature in case.features} if own else {}
        if own and case.features == ("text",):
            settings["item_features"] = ["text"]
    config = build_config(name, args.dataset, (), settings, ())
    data = build_data(config)
    loader = train_loader(config, data)
    torch.manual_seed(0)
    torch.autograd.set_detect_anomaly(args.side == "recbole")  # as RecBole's sine.py leaves it
    model = resolve_model(name)(config, data.train)
    if own:  # as a run does
        release_features(data)
    from recbole.trainer import Trainer

    trainer = hooked(Trainer)(config, model)
    if args.budget:
        return {"valid": _train_for(args.budget, trainer, loader, eval_data(config, data, "valid"))}
    if own:
        seconds = []
        for epoch in range(args.repeats + 1):
            start = time.perf_counter()
            trainer._train_epoch(loader, epoch)
            seconds.append(time.perf_counter() - start)
        seconds, note = seconds[1:], f"median of {args.repeats} epochs"
        epoch_s = statistics.median(seconds)
    else:
        times, start = [], time.perf_counter()
        for k, batch in enumerate(loader):  # the first is the warm-up; then a whole epoch if that is soon done
            trainer.optimizer.zero_grad()
            model.train().calculate_loss(batch).backward()
            trainer.optimizer.step()
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
            if k >= args.repeats and sum(times) > _AT_MOST_S:
                break
        seconds = [t * len(loader) for t in times[1:]]
        epoch_s = statistics.median(seconds)
        note = f"median of {len(seconds)} whole batches x {len(loader)} batches of {config['train_batch_size']} rows"
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
            losses = trainer.model.calculate_loss(batch)
            (sum(losses) if isinstance(losses, tuple) else losses).backward()
            trainer.optimizer.step()
            if spent + time.perf_counter() - start > budget:
                break
        spent += time.perf_counter() - start
        best = max(best, trainer.evaluate(valid, load_best_model=False)["ndcg@10"])
    return best


if __name__ == "__main__":
    main()
