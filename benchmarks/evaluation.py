"""Evaluating one fixed score function by full ranking: RecBole's trainer, collector and evaluator against our kernel.

    python benchmarks/evaluation.py            # the first 1,000 users of ml-1m, five metrics, three cut-offs
    python benchmarks/evaluation.py --full --out benchmarks/results/evaluation.json   # all; 20,000 x 100,000

A model whose scores are the inner products of two fixed random tables plus the items' log popularity is evaluated on a
tenth of ml-1m, drawn by RecBole; the rest is known history and masked. RecBole's side is ``Trainer.evaluate`` over its
own loader, once with its default eval_batch_size of 4,096 scores, which is one user at a time, and once with 1,024
users. Ours is the kernel that stands in the same place here. Every side lives in a process of its own; they work in
turn, medians. Times are of the whole evaluation, scoring included; memory is the greatest of anonymous resident pages
over their value before the first evaluation.
"""

import gzip
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import measured
import numpy as np

METRICS, TOPK, WIDTH = ["Recall", "MRR", "NDCG", "Hit", "Precision"], [5, 10, 20], 32
DEFAULT_BATCH, USERS_AT_ONCE = 4096, 1024
SIDES = {"recbole": "RecBole, as it comes", "recbole_large": "RecBole, 1,024 users a batch", "ours": "ours"}
FEW, LARGE = 1_000, (20_000, 100_000)


def write_ml_1m(root: Path, full: bool) -> None:
    """RecBole's atomic file of ml-1m, unpacked; of the first users alone unless in full."""
    packed = measured.SHARED / "data" / "ml-1m" / "derived" / "ml-1m.inter.gz"
    if not packed.is_file():
        raise SystemExit(f"{packed} is not there; set RECBOLE_LLM_SHARED to the folder that holds data/")
    (root / "ml-1m").mkdir()
    with gzip.open(packed, "rt") as source, (root / "ml-1m" / "ml-1m.inter").open("w") as target:
        header = next(source)
        target.write(header)
        place = [column.split(":")[0] for column in header.rstrip().split("\t")].index("user_id")
        target.writelines(line for line in source if full or int(line.split("\t")[place]) <= FEW)


def scorer(n_users: int, n_items: int, item_counts: np.ndarray):
    """Function from user ids to scores, [b] int64 tensor -> [b, n_items] float32."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left = torch.randn(n_users, WIDTH, generator=generator) * 0.2
    right = torch.randn(n_items, WIDTH, generator=generator) * 0.2
    bias = torch.from_numpy(np.log1p(item_counts)).float()
    return lambda users: left[users] @ right.T + bias


def recbole_parts(root: Path, users_at_once: int):
    """RecBole's config, test loader, and scorer, everything of this benchmark's split."""
    from recbole_llm import compat

    compat.apply()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    settings = {
        "data_path": str(root),
        "load_col": {"inter": ["user_id", "item_id"]},
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
        "metrics": METRICS,
        "topk": TOPK,
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 10,
        "eval_batch_size": DEFAULT_BATCH if users_at_once == 1 else users_at_once * 3_800,
        "show_progress": False,
        "use_gpu": False,
        "checkpoint_dir": str(root),
    }
    config = Config(model="BPR", dataset="ml-1m", config_dict=settings)
    init_seed(2020, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    parts = [part.dataset.inter_feat for part in (train, valid, test)]
    users, items = ([part[field].numpy() for part in parts] for field in ("user_id", "item_id"))
    n_users, n_items = test.dataset.user_num, test.dataset.item_num
    score = scorer(n_users, n_items, np.bincount(items[0], minlength=n_items))
    return config, test, users, items, n_items, score


def recbole_side(root: Path, users_at_once: int):
    """evaluate() -> metrics, by RecBole."""
    config, test, _, _, _, score = recbole_parts(root, users_at_once)
    import torch
    from recbole.model.abstract_recommender import GeneralRecommender
    from recbole.trainer import Trainer

    class Fixed(GeneralRecommender):
        def __init__(self) -> None:
            super().__init__(config, test.dataset)
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def full_sort_predict(self, interaction):
            return score(interaction["user_id"])

    trainer = Trainer(config, Fixed())
    return lambda: trainer.evaluate(test, load_best_model=False)


def our_side(root: Path, users_at_once: int):
    """The same by the kernel."""
    from recbole_llm.evaluation import EvalTask, evaluate

    _, _, users, items, n_items, score = recbole_parts(root, users_at_once)
    import torch

    known = np.concatenate(users[:2]), np.concatenate(items[:2])
    targets = users[2], items[2]
    task = EvalTask.build("full", "test", n_items, targets=targets, known=known, split_fingerprint="")
    ids = torch.from_numpy(task.user_ids)
    return lambda: evaluate(task, lambda rows: score(ids[rows]), metrics=METRICS, topk=TOPK).metrics


def large_side():
    """The kernel on 20,000 users with 30 interactions each, popular items likelier, a tenth of them the test."""
    import torch

    from recbole_llm.evaluation import EvalTask, evaluate

    n_users, n_items = LARGE
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(1, n_users + 1), 30)
    items = (n_items * rng.random(len(users)) ** 3).astype(np.int64) + 1
    keys = np.unique(users * (n_items + 1) + items)
    users, items = keys // (n_items + 1), keys % (n_items + 1)
    test = rng.random(len(users)) < 0.1
    test[np.flatnonzero(np.diff(users, prepend=0))] = True  # one of every user's at least
    task = EvalTask.build(
        "full",
        "test",
        n_items + 1,
        targets=(users[test], items[test]),
        known=(users[~test], items[~test]),
        split_fingerprint="",
    )
    score = scorer(n_users + 1, n_items + 1, np.bincount(items[~test], minlength=n_items + 1))
    ids = torch.from_numpy(task.user_ids)
    return lambda: evaluate(task, lambda rows: score(ids[rows]), metrics=METRICS, topk=TOPK).metrics


def child(side: str, root: str = "") -> None:
    """Serve evaluations of one side."""
    if side == "large":
        evaluate = large_side()
    elif side == "ours":
        evaluate = our_side(Path(root), 1)
    else:
        evaluate = recbole_side(Path(root), 1 if side == "recbole" else USERS_AT_ONCE)
    measured.serve(lambda: {"metrics": {name: float(value) for name, value in evaluate().items()}})


def run(repeats: int, full: bool) -> dict:
    """Measure all sides in turn; the first round warms up and is not timed."""
    results: dict[str, list[dict]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="evaluation_") as root, ExitStack() as stack:
        write_ml_1m(Path(root), full)
        sides = {side: stack.enter_context(measured.Side(__file__, side, root)) for side in SIDES}
        for _ in range(repeats + 1):
            for side, process in sides.items():
                results[side].append(process.ask())
    metrics = {side: found[0]["metrics"] for side, found in results.items()}
    record = {f"{side}_s": statistics.median(r["seconds"] for r in found[1:]) for side, found in results.items()}
    record |= {f"{side}_peak_bytes": max(r["peak_bytes"] for r in found) for side, found in results.items()}
    record |= {
        "users": "all" if full else FEW,
        "ratio": record["recbole_s"] / record["ours_s"],
        "ratio_large_batches": record["recbole_large_s"] / record["ours_s"],
        "max_abs_difference": max(
            abs(metrics["ours"][name] - metrics[side][name]) for side in SIDES for name in metrics["recbole"]
        ),
        "metrics": metrics["ours"],
        "repeats": repeats,
        "machine": measured.machine(),
    }
    if full:
        with measured.Side(__file__, "large") as process:
            found = process.ask()
            record["large"] = {"users": LARGE[0], "items": LARGE[1], "ours_s": found["seconds"]}
            record["large"]["peak_bytes"] = found["peak_bytes"]
            record["large"]["whole_process_bytes"] = found["peak_bytes"] + process.rest_bytes
    return record


def main() -> None:
    """Parse the command line, measure, report."""
    args = measured.arguments(__doc__, f"all users instead of {FEW:,}, and 20,000 x 100,000")
    record = run(args.repeats, args.full)
    print(f"{'ml-1m, full ranking':<30}{'seconds':>10}{'extra MiB':>12}")
    for side, name in SIDES.items():
        print(f"{name:<30}{record[f'{side}_s']:>10.2f}{record[f'{side}_peak_bytes'] / 2**20:>12.0f}")
    print(
        f"{record['ratio']:.1f}x faster than RecBole as it comes, {record['ratio_large_batches']:.1f}x than with large "
        f"batches; largest difference of a metric {record['max_abs_difference']:.1e}"
    )
    if "large" in record:
        large = record["large"]
        print(
            f"20,000 x 100,000: {large['ours_s']:.1f} s, whole process {large['whole_process_bytes'] / 2**30:.2f} GiB"
        )
    measured.finish(record, args.out, args.json)


if __name__ == "__main__":
    if (arguments := measured.child_arguments()) is not None:
        child(*arguments)
    else:
        main()
