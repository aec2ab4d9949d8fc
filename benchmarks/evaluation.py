"""Evaluating one fixed score function by full ranking: RecBole's collector and evaluator against our kernel.

    python benchmarks/evaluation.py            # ml-1m: 6,040 users x 3,706 items, five metrics, three cut-offs
    python benchmarks/evaluation.py --full --out benchmarks/results/evaluation.json   # and 20,000 x 100,000, ours

Scores are the inner products of two fixed random tables plus the items' log popularity. A tenth of the interactions,
drawn at random, is the test, the rest is known history and masked. Each side runs in a fresh process, alternating,
medians. RecBole gets batches of 1,024 users, their positives and history ready-made (its loader would score one user at
a time by default, and look these up in Python). Times are of the whole evaluation, scoring included; memory is the peak
of anonymous resident pages over their value just before it.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("RECBOLE_LLM_SHARED", REPOSITORY.parent / "shared"))
METRICS, TOPK, WIDTH, BATCH = ["Recall", "MRR", "NDCG", "Hit", "Precision"], [5, 10, 20], 32, 1024
SIDES = ("recbole", "ours")


def ml_1m() -> tuple[np.ndarray, np.ndarray, int, int]:
    """Users and items as ids from 1, and the sizes of both id spaces, [PAD] included."""
    path = SHARED / "data" / "ml-1m" / "derived" / "ml-1m.inter.gz"
    if not path.is_file():
        raise SystemExit(f"{path} is not there; set RECBOLE_LLM_SHARED to the folder that holds data/")
    with gzip.open(path, "rt") as file:
        names = [column.split(":")[0] for column in file.readline().rstrip("\n").split("\t")]
        table = np.loadtxt(
            file, delimiter="\t", usecols=(names.index("user_id"), names.index("item_id")), dtype=np.int64
        )
    users, items = (np.unique(column, return_inverse=True)[1] + 1 for column in table.T)
    return users, items, int(users.max()) + 1, int(items.max()) + 1


def synthetic(n_users: int, n_items: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """30 interactions a user, popular items likelier."""
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(1, n_users + 1), 30)
    items = (n_items * rng.random(len(users)) ** 3).astype(np.int64) + 1
    keys = np.unique(users * (n_items + 1) + items)
    return keys // (n_items + 1), keys % (n_items + 1), n_users + 1, n_items + 1


def prepare(size: str):
    """Test and known pairs, sizes, and score(user ids) -> [b, n_items] float32."""
    import torch

    users, items, n_users, n_items = ml_1m() if size == "ml-1m" else synthetic(20_000, 100_000)
    test = np.random.default_rng(0).random(len(users)) < 0.1
    counts = np.bincount(items[~test], minlength=n_items)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(n_users, WIDTH, generator=generator) * 0.2
    right = torch.randn(n_items, WIDTH, generator=generator) * 0.2
    bias = torch.from_numpy(np.log1p(counts)).float()

    def score(ids: np.ndarray) -> torch.Tensor:
        return left[torch.from_numpy(ids)] @ right.T + bias

    return (users[test], items[test]), (users[~test], items[~test]), n_items, score


def our_side(size: str):
    """evaluate() -> metrics."""
    from recbole_llm.evaluation import EvalTask, evaluate

    test, known, n_items, score = prepare(size)
    task = EvalTask.build("full", "test", n_items, targets=test, known=known, split_fingerprint="")
    return lambda: evaluate(task, lambda rows: score(task.user_ids[rows]), metrics=METRICS, topk=TOPK).metrics


def recbole_side(size: str):
    """The same by RecBole: what its Trainer does in ``_full_sort_batch_eval`` and ``evaluate``."""
    from recbole_llm import compat

    compat.apply()
    import torch
    from recbole.evaluator import Collector, Evaluator

    test, known, n_items, score = prepare(size)
    config = {"metrics": METRICS, "topk": TOPK, "metric_decimal_place": 10, "eval_args": {"mode": "full"}}
    config |= {"device": "cpu", "ITEM_ID_FIELD": "item_id"}
    collector, evaluator = Collector(config), Evaluator(config)
    by_user = [[torch.from_numpy(part) for part in _grouped(*pairs)] for pairs in (test, known)]
    rows = np.unique(test[0])

    def evaluate() -> dict:
        for start in range(0, len(rows), BATCH):
            ids = rows[start : start + BATCH]
            scores = score(ids)
            scores[:, 0] = -np.inf
            (hist_row, hist_item), (pos_row, pos_item) = (_slice(*part, ids) for part in reversed(by_user))
            scores[hist_row, hist_item] = -np.inf
            collector.eval_batch_collect(scores, None, pos_row, pos_item)
        return dict(evaluator.evaluate(collector.get_data_struct()))

    collector.data_struct.set("data.num_items", n_items)
    return evaluate


def _grouped(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(users, kind="stable")
    return users[order], items[order]


def _slice(users, items, ids: np.ndarray):
    """(row within ids, item) of the pairs whose user is among the ids, as RecBole's loader hands them over."""
    import torch

    first, last = np.searchsorted(users.numpy(), [ids[0], ids[-1] + 1])
    part, place = users[first:last], torch.from_numpy(np.searchsorted(ids, users[first:last].numpy()))
    here = torch.from_numpy(np.isin(part.numpy(), ids))
    return place[here], items[first:last][here]


def child(side: str, size: str) -> None:
    """One evaluation; says ``ready`` before it and waits, so that the parent can read the memory at rest."""
    evaluate = {"ours": our_side, "recbole": recbole_side}[side](size)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    metrics = evaluate()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "metrics": {k: float(v) for k, v in metrics.items()}}), flush=True)


def rss_anon(pid: int) -> int:
    """Anonymous resident bytes of a process; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def measure(side: str, size: str) -> dict:
    """Seconds, metrics and peak extra anonymous bytes of one evaluation in a fresh process."""
    command = [sys.executable, __file__, "--child", side, size]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        while (line := process.stdout.readline()) and line != "ready\n":
            pass
        peak = rest = rss_anon(process.pid)
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()))
        reader.start()
        process.stdin.write("\n")
        process.stdin.flush()
        while reader.is_alive():
            peak = max(peak, rss_anon(process.pid))
            time.sleep(0.002)
    if process.returncode:
        raise SystemExit(f"the evaluation '{side}' failed with exit code {process.returncode}")
    return json.loads(lines[0]) | {"peak_bytes": peak - rest, "whole_bytes": peak}


def run(repeats: int, full: bool) -> dict:
    """Measure both sides, alternating; the first round warms up and is not counted."""
    results: dict[str, list[dict]] = {side: [] for side in SIDES}
    for turn in range(repeats + 1):
        for side in SIDES:
            one = measure(side, "ml-1m")
            if turn:
                results[side].append(one)
    seconds = {side: statistics.median(r["seconds"] for r in results[side]) for side in SIDES}
    peak = {side: statistics.median(r["peak_bytes"] for r in results[side]) for side in SIDES}
    ours, theirs = results["ours"][0]["metrics"], results["recbole"][0]["metrics"]
    record = {
        "recbole_s": seconds["recbole"],
        "ours_s": seconds["ours"],
        "ratio": seconds["recbole"] / seconds["ours"],
        "recbole_peak_bytes": peak["recbole"],
        "ours_peak_bytes": peak["ours"],
        "max_abs_difference": max(abs(ours[name] - theirs[name]) for name in theirs),
        "metrics": ours,
        "repeats": repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    if full:
        large = measure("ours", "large")
        record["large"] = {"users": 20_000, "items": 100_000, "ours_s": large["seconds"]}
        record["large"] |= {"peak_bytes": large["peak_bytes"], "whole_process_bytes": large["whole_bytes"]}
    return record


def main() -> None:
    """Parse the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also 20,000 users x 100,000 items")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds after one warm-up; default: 5")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--out", type=Path, help="write the record to this file too")
    args = parser.parse_args()
    record = run(args.repeats, args.full)
    print(f"{'ml-1m, full ranking':<24}{'seconds':>10}{'extra MiB':>12}")
    for side, name in (("recbole", "RecBole"), ("ours", "ours")):
        print(f"{name:<24}{record[f'{side}_s']:>10.2f}{record[f'{side}_peak_bytes'] / 2**20:>12.0f}")
    print(f"{record['ratio']:.1f}x faster; largest difference of a metric {record['max_abs_difference']:.1e}")
    if "large" in record:
        large = record["large"]
        print(
            f"20,000 x 100,000: {large['ours_s']:.1f} s, whole process {large['whole_process_bytes'] / 2**30:.2f} GiB"
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    if args.json:
        print(json.dumps(record))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        chosen = sys.argv[2:]
        sys.argv = sys.argv[:1]  # RecBole reads the command line
        child(*chosen)
    else:
        main()
