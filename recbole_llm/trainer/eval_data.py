"""What RecBole's Trainer receives in the place of a validation or test dataloader."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_llm.evaluation.task import EvalTask


@dataclass
class EvalData:
    """Evaluation tasks over the same rows, and the model inputs of these rows.

    Attributes:
        tasks: the first is the protocol's own, its metrics go by their bare names; the others are prefixed.
        inputs: model inputs, row i belongs to ``tasks[0].user_ids[i]``.
        item_inputs: item fields of all ids, for models that only score pairs.
        item_counts: training interactions an item id. [n_items] int64.
        known_dataset: RecBole dataset of the known interactions, for models that are folded in.
        metrics, topk: what to compute.
        batch_size: rows (full scores) or pairs (pair scores) a batch.
    """

    tasks: list[EvalTask]
    inputs: Interaction
    item_inputs: Interaction
    item_counts: np.ndarray
    known_dataset: Callable[[], object]
    metrics: list[str]
    topk: list[int]
    batch_size: int

    @property
    def part(self) -> str:
        return self.tasks[0].part

    @property
    def n_items(self) -> int:
        return self.tasks[0].n_items

    def scorer(self, model, device: torch.device) -> Callable[[np.ndarray], Tensor]:
        """Function from row indices to their scores of all items. [b] -> [b, n_items] float32."""

        def full(rows: np.ndarray) -> Tensor:
            batch = self.inputs[torch.from_numpy(rows)].to(device)
            return model.full_sort_predict(batch).view(len(rows), self.n_items).float()

        def pairs(rows: np.ndarray) -> Tensor:
            scores = torch.empty(len(rows), self.n_items)
            users_at_once = max(1, self.batch_size // self.n_items)
            for k in range(0, len(rows), users_at_once):
                part = rows[k : k + users_at_once]
                batch = self.inputs[torch.from_numpy(part)].repeat_interleave(self.n_items)
                batch.update(self.item_inputs.repeat(len(part)))
                for j in range(0, len(batch), self.batch_size):
                    piece = batch[j : j + self.batch_size].to(device)
                    scores[k : k + len(part)].view(-1)[j : j + len(piece)] = model.predict(piece).float().cpu().view(-1)
            return scores

        only_pairs = False

        def score(rows: np.ndarray) -> Tensor:
            nonlocal only_pairs
            if not only_pairs:
                try:
                    return full(rows)
                except NotImplementedError:
                    only_pairs = True
            return pairs(rows)

        return score
