"""Labelled pairs of a user and an item to score: what the Trainer gets in the place of ranking tasks."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AutoEncoderMixin
from torch import Tensor

_SCORES_PER_BATCH = 4 * 1024 * 1024  # 16 MiB of float32


@dataclass
class LabelledRows:
    """Rows to score, and their labels, which no model is given.

    Attributes:
        inputs: model inputs of the rows, labels not among them. [n]
        user_ids: [n] int64. labels: [n] bool.
        batch_size: rows a batch.
    """

    inputs: Interaction
    user_ids: np.ndarray
    labels: np.ndarray
    batch_size: int

    def evaluate(self, model, device: torch.device) -> dict[str, float]:
        """Metrics of a model."""
        raise NotImplementedError

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


def _of_all_items(model, inputs: Interaction) -> Tensor:
    """Scores of the rows' items, out of those of all items. [n]"""
    scores = model.full_sort_predict(inputs).view(len(inputs), model.n_items)
    return scores.gather(1, inputs[model.ITEM_ID][:, None])
