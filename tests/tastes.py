"""A dataset with enough of everything for the checks of ``diagnose``: groups of items, ratings, a feature that fits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from recbole_llm.data.feature_store import save_feature

N_GROUPS, PER_GROUP, N_USERS, N_STEPS = 4, 30, 240, 24
TOKENS = [f"i{k}" for k in range(N_GROUPS * PER_GROUP)]
FEATURES = ("content", "mood")
_DIM = 8


def rows_of(feature: str) -> np.ndarray:
    """Healthy rows in the order of TOKENS: an item's group, with noise. [n, 8] float32."""
    rng = np.random.default_rng(FEATURES.index(feature))
    centres = np.repeat(rng.normal(size=(N_GROUPS, _DIM)), PER_GROUP, 0)
    return (centres + 0.5 * rng.normal(size=centres.shape)).astype(np.float32)


def write_tastes(
    folder: Path,
    content: Callable[[list[str], np.ndarray], tuple[list[str], np.ndarray]] = lambda tokens, rows: (tokens, rows),
    minutes_tell: bool = False,
) -> Path:
    """Atomic files of dataset ``tastes`` below ``folder``: users rate items of their group higher, and more often.

    Args:
        content: what becomes of the tokens and rows of the feature ``content``.
        minutes_tell: whether the column ``minutes`` follows from the rating; else it is noise.
    """
    rng = np.random.default_rng(11)
    home = folder / "tastes"
    home.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float\tminutes:float"]
    for u in range(N_USERS):
        own = np.arange(len(TOKENS)) // PER_GROUP == u % N_GROUPS
        p = np.where(own, 9.0, 1.0)
        items = rng.choice(len(TOKENS), size=N_STEPS, replace=False, p=p / p.sum())
        for t, item in enumerate(items):
            likes = rng.random() < (0.75 if own[item] else 0.15)
            rating, noise = (rng.integers(4, 6) if likes else rng.integers(1, 4)), rng.random()
            minutes = 10 * rating + noise if minutes_tell else 50 * noise
            lines.append(f"u{u}\t{TOKENS[item]}\t{rating}\t{1000 * t + u}\t{minutes:.3f}")
    (home / "tastes.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in FEATURES:
        tokens, rows = TOKENS, rows_of(name)
        tokens, rows = content(tokens, rows) if name == "content" else (tokens, rows)
        save_feature(home / f"tastes.{name}.safetensors", tokens, rows, "item_id", {"encoder": "test"})
    return folder


def tastes_settings(folder: Path, **changes) -> dict:
    """Settings small enough to train in seconds."""
    return {
        "data_path": str(folder),
        "run_dir": str(folder / "runs"),
        "features": {name: {"side": "item", "missing": "learned"} for name in FEATURES},
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp", "minutes"]},
        "embedding_size": 16,
        "train_batch_size": 256,
        "use_gpu": False,
        "state": "WARNING",
        "show_progress": False,
        "seed": 3,
    } | changes
