"""A small dataset in which cold items warm up: users like items of their colour, which an item's column tells."""

from pathlib import Path

import numpy as np
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn

PHASES = {"hot_above": 30, "cold_from": 14, "phase_rows": 4, "valid_share": 0.25}
N_USERS, N_HOT, N_COLD, N_RARE = 60, 16, 8, 3


def interactions(seed: int = 0, distinct_times: bool = True) -> list[tuple[str, str, int, int]]:
    """(user, item, rating, time) in file order, which is not that of time.

    Items are called h<k> (hot), c<k> (cold) and r<k> (rated too rarely); of an item's and a user's number, even ones
    belong together, and odd ones.
    """
    rng, rows = np.random.default_rng(seed), []
    for name, count, low, high in (("h", N_HOT, 32, 46), ("c", N_COLD, 16, 28), ("r", N_RARE, 3, 9)):
        for k in range(count):
            for u in rng.choice(N_USERS, size=int(rng.integers(low, high)), replace=False):
                likes = (u + k) % 2 == 0
                rows.append((f"u{u}", f"{name}{k}", int(rng.choice([4, 5] if likes else [1, 2, 3]))))
    times = rng.permutation(len(rows)) if distinct_times else rng.integers(0, 20, size=len(rows))
    rows = [(*row, 1000 + int(time)) for row, time in zip(rows, times, strict=True)]
    return [rows[k] for k in rng.permutation(len(rows))]


def write_phased(folder: Path, rows=None) -> Path:
    """Atomic files of dataset ``phased`` below ``folder``, which is the ``data_path``."""
    rows = interactions() if rows is None else rows
    home = folder / "phased"
    home.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *("\t".join(map(str, r)) for r in rows)]
    (home / "phased.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    items = sorted({row[1] for row in rows})
    lines = ["item_id:token\tcolour:token", *(f"{i}\t{'even' if int(i[1:]) % 2 == 0 else 'odd'}" for i in items)]
    (home / "phased.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def phased_settings(folder: Path, **changes) -> dict:
    """Settings small enough to train in seconds."""
    return {
        "data_path": str(folder),
        "run_dir": str(folder / "runs"),
        "protocol": "emerg-phases",
        "phases": PHASES,
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "colour"]},
        "embedding_size": 8,
        "mlp_hidden_size": [8],
        "train_batch_size": 64,
        "epochs": 3,
        "use_gpu": False,
        "state": "WARNING",
        "show_progress": False,
        "seed": 3,
    } | changes


class Fake(GeneralRecommender):
    """Learns from labels, and updates itself: adds up the labels of the rows it is shown, by item."""

    input_type = InputType.POINTWISE
    shown: list = []  # (model, what it was shown), one entry a phase

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        self.bias, self.added = nn.Embedding(self.n_items, 1), nn.Parameter(torch.zeros(self.n_items))
        self.norm = nn.BatchNorm1d(1)
        counts = torch.bincount(dataset.inter_feat[self.ITEM_ID], minlength=self.n_items)
        self.register_buffer("counts", counts)

    def calculate_loss(self, interaction) -> Tensor:
        logits = self.norm(self.bias(interaction[self.ITEM_ID]))[:, 0] + 0.0 * self.added.sum()
        return nn.functional.binary_cross_entropy_with_logits(logits, interaction[self.LABEL])

    def predict(self, interaction) -> Tensor:
        items = interaction[self.ITEM_ID]
        return self.norm(self.bias(items))[:, 0] + self.added[items]

    @torch.no_grad()
    def update_phase(self, update) -> bool:
        rows = update.rows
        self.added.index_add_(0, rows[self.ITEM_ID], rows[self.LABEL] - 0.5)
        Fake.shown.append((self, update, self.training))
        return True
