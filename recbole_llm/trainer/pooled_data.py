"""Labelled pairs of a user and an item, scored in one pool: what the Trainer gets in the place of ranking tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AutoEncoderMixin
from torch import Tensor

from recbole_llm.evaluation.pooled import auc_by_user, pooled_metrics

_SCORES_PER_BATCH = 4 * 1024 * 1024  # 16 MiB of float32


@dataclass
class PooledData:
    """Rows to score, and their labels, which no model is given.

    Attributes:
        inputs: model inputs of the rows, labels not among them. [n]
        user_ids: [n] int64. labels: [n] bool.
        phase: how much the scored model knows; prefix of the metrics.
        batch_size: rows a batch.
        in_phases: metrics of a model in this phase and later ones, where a later one is asked for.
    """

    inputs: Interaction
    user_ids: np.ndarray
    labels: np.ndarray
    phase: str
    batch_size: int
    in_phases: Callable[[object], dict[str, float]] | None = None

    def evaluate(self, model, device: torch.device) -> dict[str, float]:
        """Metrics of a model, keyed ``cold/auc``."""
        return self.in_phases(model) if self.in_phases else self.measure(self.scores(model, device))

    @torch.no_grad()
    def scores(self, model, device: torch.device) -> np.ndarray:
        """Score of every row. [n] float64."""
        model.eval()
        score, size = model.predict, self.batch_size
        # RecBole's predict of these indexes by a list of tensors, which torch will read in another way
        if isinstance(model, AutoEncoderMixin):
            score, size = partial(_of_all_items, model), max(1, _SCORES_PER_BATCH // model.n_items)
        found = [score(self.inputs[k : k + size].to(device)) for k in range(0, len(self.labels), size)]
        return torch.cat([part.double().cpu().view(-1) for part in found]).numpy()

    def measure(self, scores: np.ndarray, phase: str | None = None) -> dict[str, float]:
        """Metrics of the scores, keyed ``cold/auc``."""
        prefix = phase or self.phase
        return {f"{prefix}/{name}": v for name, v in pooled_metrics(self.labels, scores).items()}

    def users(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the users who have rows of both labels, ascending, and the AUC of their rows. [m] each."""
        return auc_by_user(self.user_ids, self.labels, scores)


def _of_all_items(model, inputs: Interaction) -> Tensor:
    """Scores of the rows' items, out of those of all items. [n]"""
    scores = model.full_sort_predict(inputs).view(len(inputs), model.n_items)
    return scores.gather(1, inputs[model.ITEM_ID][:, None])
