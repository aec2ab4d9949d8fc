"""Small comparisons on disk: records with failures and single seeds, per-user files, stages, experts, costs."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm.comparison.record import FAILED, OK, Record, per_user_file, write_records
from recbole_llm.experiment.record import RunResult

USERS = 30
SEEDS = (1, 2, 3)


def make_result(model: str, seed: int, per_user: dict[str, np.ndarray], **changes) -> RunResult:
    """A run whose test metrics are the means of its users'."""
    rng = np.random.default_rng(seed)
    loss = [float(v) for v in np.sort(rng.uniform(0.5, 40, 6))[::-1]]
    stage = {
        "name": "train",
        "start_valid": None,
        "best_valid": 0.31 + seed / 1000,
        "best_epoch": 5,
        "epochs": len(loss),
        "valid": {"ndcg@10": 0.31},
        "train_loss": loss,
        "seconds_per_epoch": 0.5,
        "eval_seconds": 0.1,
        "trainable": 10,
        "groups": {"all": 0.001},
    }
    fields = {
        "model": model,
        "dataset": "toy",
        "protocol": "loo-full",
        "seed": seed,
        "config": {"valid_metric": "NDCG@10", "seed": seed, "learning_rate": 0.001},
        "config_hash": f"{model}-{seed}",
        "code_hash": f"c0de{model}".ljust(64, "0"),
        "commit": "abcdef0123456789+",
        "versions": {"python": "3.12.1", "torch": "2.7.0"},
        "machine": {"processor": "Test <CPU> & co", "threads": 1, "device": "cpu"},
        "split": "5b1e" * 16,
        "features": {},
        "valid": {"ndcg@10": 0.31},
        "test": {metric: float(values.mean()) for metric, values in per_user.items()},
        "test_reads": 1,
        "stages": [stage],
        "seconds": {"build": 2.0, "train": 3.0 + seed, "valid": 0.5, "test": 0.25},
        "peak_bytes": (200 + 10 * seed) * 2**20,
        "n_parameters": 12_345,
        "experts": {},
        "run_folder": f"runs/{model}-{seed}",
    }
    return RunResult(**fields | changes)


def make_users(level: float, seed: int) -> dict[str, np.ndarray]:
    """Metrics of one positive a user, the better the higher the level (0..1)."""
    rng = np.random.default_rng(seed)
    rank = np.where(rng.random(USERS) < level, rng.integers(1, 11, USERS), 99)
    hit = (rank <= 10).astype(float)
    return {
        "hit@10": hit,
        "ndcg@10": hit / np.log2(rank + 1),
        "mrr@10": hit / rank,
        "recall@10": hit,
    }


def make_records() -> list[tuple[Record, dict[str, np.ndarray] | None]]:
    """Rows: a weak and a strong one of three seeds, one of a single seed, one that failed, one that failed in part, and
    at the end the reference with stages and experts."""
    made = []

    def add(label: str, level: float, seed: int, tried: int = 0, **changes) -> None:
        users = make_users(level, seed + int(1000 * level))
        result = make_result(label.split(" ")[0], seed, users, **changes)
        result = RunResult(**asdict(result) | {"run_folder": f"runs/{label}-{seed}".replace(" ", "_")})
        grid = {"grid": {"learning_rate": [0.01, 0.001]}, "chosen": {"learning_rate": 0.01}} if tried else {}
        record = Record(
            label, result.model, "toy", "loo-full", seed, OK, tried=tried, grid_seconds=9.5, result=result, **grid
        )
        made.append((record, users))

    def fail(label: str, seed: int, reason: str) -> None:
        made.append((Record(label, label, "toy", "loo-full", seed, FAILED, reason), None))

    closed_form = {"stages": [], "n_parameters": 0}
    for seed in SEEDS:
        add("Pop", 0.1, seed, **closed_form)
    for seed in SEEDS:
        add("SASRec", 0.9, seed, tried=2)
    add("Single_seed", 0.6, 1)
    fail("Broken|<b>", 1, "out of memory: 5 GiB & 100 % of $HOME_DIR #1")
    fail("Broken|<b>", 2, "out of memory: 5 GiB & 100 % of $HOME_DIR #1")
    add("Partly", 0.5, 1)
    fail("Partly", 2, "loss is not finite")
    for seed in SEEDS:
        stages = make_result("x", seed, make_users(0.5, seed)).stages
        stages = [stages[0] | {"name": f"stage_{k}", "start_valid": 0.2 if k else None} for k in range(3)]
        experts = {"item": {"content": 0.5, "theme": 0.3, "quality": 0.2}, "user": {"mood": 0.75, "style": 0.25}}
        add("Ours (placebo=none)", 0.8, seed, stages=stages, experts=experts)
    return made


def write_comparison(folder: Path, made) -> Path:
    """A comparison's folder of records and their users' metrics, users in an order that is not theirs."""
    write_records(folder, [record for record, _ in made])
    for record, users in made:
        if users is not None:
            path = per_user_file(folder, record)
            path.parent.mkdir(exist_ok=True)
            table = pd.DataFrame({"user": [f"u{k:03d}" for k in range(USERS)]} | users)
            table.sample(frac=1, random_state=record.seed).to_parquet(path, index=False)
    return folder
