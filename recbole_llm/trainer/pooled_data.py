"""Labelled rows of a phase, measured in one pool."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from recbole_llm.evaluation.pooled import auc_by_user, pooled_metrics
from recbole_llm.trainer.labelled_rows import LabelledRows


@dataclass
class PooledData(LabelledRows):
    """Rows of items that warm up.

    Attributes:
        phase: how much the scored model knows; prefix of the metrics.
        in_phases: metrics of a model in this phase and later ones, where a later one is asked for.
    """

    phase: str
    in_phases: Callable[[object], dict[str, float]] | None = None

    def evaluate(self, model, device: torch.device) -> dict[str, float]:
        """Metrics of a model, keyed ``cold/auc``."""
        return self.in_phases(model) if self.in_phases else self.measure(self.scores(model, device))

    def measure(self, scores: np.ndarray, phase: str | None = None) -> dict[str, float]:
        """Metrics of the scores, keyed ``cold/auc``."""
        prefix = phase or self.phase
        return {f"{prefix}/{name}": v for name, v in pooled_metrics(self.labels, scores).items()}

    def users(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the users who have rows of both labels, ascending, and the AUC of their rows. [m] each."""
        return auc_by_user(self.user_ids, self.labels, scores)[:2]
