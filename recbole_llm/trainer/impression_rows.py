"""What users were shown, measured by impression where impressions are known, and in one pool."""

from dataclasses import dataclass

import numpy as np
import torch
from recbole.utils import ModelType

from recbole_llm.errors import DataError
from recbole_llm.evaluation.impressions import accuracy_and_log_loss, bootstrapped_auc, impression_metrics
from recbole_llm.evaluation.pooled import auc, auc_by_user
from recbole_llm.trainer.labelled_rows import LabelledRows


@dataclass
class ImpressionRows(LabelledRows):
    """Rows of a part.

    Attributes:
        groups: impression of each row, -1 where it is unknown; None where all are. [n] int64.
        base_rate: share of clicks among the training rows.
        final: whether intervals are made too, which takes a while: for the test, once.
        per_unit: after an evaluation, the metrics by impression, or where there are none the AUC of each user's own
            rows as ``pooled/auc``.
    """

    groups: np.ndarray | None
    base_rate: float
    final: bool = False
    per_unit: dict[str, np.ndarray] | None = None

    def evaluate(self, model, device: torch.device) -> dict[str, float]:
        """``auc``, ``mrr``, ``ndcg@k`` by impression; of all rows ``pooled/...``: AUC, GAUC, accuracy and log loss of
        probabilities.

        GAUC is the mean over users of the AUC of each one's own rows, weighted by their number (Zhu et al. 2017,
        https://arxiv.org/abs/1703.02091): unlike the pool's AUC, it does not count who clicks how often.
        What needs rows of both labels, in an impression or of a user, is left out where nobody has them.

        Raises:
            DataError: when a score is not finite.
        """
        scores = self.scores(model, device)
        if n_bad := int((~np.isfinite(scores)).sum()):
            raise DataError(f"{n_bad} of {len(scores)} scores are not finite; lower the learning rate")
        metrics: dict[str, float] = {}
        users, by_user, n_rows = auc_by_user(self.user_ids, self.labels, scores)
        self.per_unit = {"user": users, "pooled/auc": by_user}
        if self.groups is not None:
            metrics, self.per_unit = impression_metrics(self.groups, self.labels, scores)
        metrics["pooled/auc"] = auc(self.labels, scores)
        if len(users):
            metrics["pooled/gauc"] = float(np.average(by_user, weights=n_rows))
        if self.final and (interval := bootstrapped_auc(self.user_ids, self.labels, scores)):
            metrics |= dict(zip(("pooled/auc_low", "pooled/auc_high"), interval, strict=True))
        if predicts_probabilities(model):
            found = accuracy_and_log_loss(self.labels, scores, self.base_rate)
            metrics |= {f"pooled/{name}": value for name, value in found.items()}
        return metrics


def predicts_probabilities(model) -> bool:
    """Whether ``predict`` gives the probability of a click: RecBole's context-aware models do, ours may say so."""
    return getattr(model, "predicts_probabilities", model.type == ModelType.CONTEXT)
