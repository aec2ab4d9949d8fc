"""Leaks: one column, or one feature, that knows the label or the held-out item far too well.

Looked at are the training and the validation rows, never the test rows. Not seen are leaks that are spread over
several columns, that lift an AUC by less than the thresholds, or that concern test rows alone; texts about users that
name held-out items are found by ``recbole-llm audit``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recbole_llm.diagnose.findings import Part
from recbole_llm.evaluation.pooled import auc

LEAK = 0.95  # AUC of one column or feature alone; users' and items' mean ratings together reach about 0.78 on MovieLens
SPLITS = 0.99  # AUC of telling training from validation rows: chance and drift in time stay below it
HELD_OUT = 0.90  # AUC of picking the held-out item among those of other users; see also MARGIN
MARGIN = 0.5  # share of the histories' misses that an honest feature, made from histories, cannot fall below
MIN_ROWS = 50  # of each label or part, or AUC is noise
MIN_USERS = 60  # of the probe with held-out items
_WIDTH = 256  # columns of a feature that the probes look at, by a random projection
MOST_ROWS = 20_000  # of a part that columns and features are compared with labels on: seconds on one core
_FOLDS = 4
_USERS, _ITEMS = 2_000, 2_000  # that the probe with held-out items looks at, at most


@dataclass(frozen=True)
class HeldOut:
    """AUC of the users' held-out items among those of other users: by the feature, and by their histories."""

    users: int
    by_feature: float
    by_history: float

    @property
    def leaks(self) -> bool:
        """Whether the feature knows what histories do not tell."""
        return self.by_feature >= HELD_OUT and 1 - self.by_feature < MARGIN * (1 - self.by_history)


def column_auc(values: np.ndarray, labels: np.ndarray, train: np.ndarray, valid: np.ndarray, tokens: bool) -> float:
    """AUC with which one column alone tells the label, folded to 0.5..1; NaN where a part is too small.

    Args:
        values: numbers, or ids of tokens, whose mean label in training is then their number. [n].
        labels: [n] bool. train, valid: rows of the parts.
        tokens: whether the values are ids.
    Returns:
        The lower of both parts' AUC for numbers, validation's for tokens.
    """
    if min(_rarer(labels[train]), _rarer(labels[valid])) < MIN_ROWS:
        return float("nan")
    if tokens:
        ids = values.astype(np.int64)
        size, prior = int(ids.max()) + 1, labels[train].mean()
        seen = np.bincount(ids[train], minlength=size)
        rate = (np.bincount(ids[train], weights=labels[train], minlength=size) + prior) / (seen + 1)
        found = auc(labels[valid], rate[ids[valid]])
        return max(found, 1 - found)
    values = np.nan_to_num(values.astype(np.float64))
    parts = [auc(labels[rows], values[rows]) for rows in (train, valid)]
    return min(parts) if np.mean(parts) > 0.5 else 1 - max(parts)


def probe_auc(rows: np.ndarray, labels: np.ndarray, train: np.ndarray, valid: np.ndarray, seed: int = 0) -> float:
    """AUC on validation rows of a ridge regression from features to labels, fitted on training rows; NaN for too few.

    Args:
        rows: the feature of every row. [n, F]. labels: [n] bool. train, valid: positions.
    """
    if min(_rarer(labels[train]), _rarer(labels[valid])) < MIN_ROWS:
        return float("nan")
    x = narrowed(rows, seed)
    mean, deviation = x[train].mean(0), x[train].std(0)
    x = (x - mean) / np.where(deviation > 0, deviation, np.inf)
    a, y = x[train], labels[train] - labels[train].mean()
    weights = np.linalg.solve(a.T @ a + 0.01 * len(a) * np.eye(a.shape[1]), a.T @ y)
    found = auc(labels[valid], x[valid] @ weights)
    return max(found, 1 - found)


def narrowed(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """At most 256 columns, by a random projection that roughly keeps distances. [n, F] -> [n, f] float64."""
    rows = np.nan_to_num(np.asarray(rows, dtype=np.float64))
    if rows.shape[1] <= _WIDTH:
        return rows
    return rows @ np.random.default_rng(seed).normal(size=(rows.shape[1], _WIDTH)) / np.sqrt(_WIDTH)


def held_out_auc(
    features: np.ndarray, present: np.ndarray, history: sparse.csr_matrix, held_out: sparse.csr_matrix, seed: int = 0
) -> HeldOut | None:
    """How well a user's feature picks the held-out items, beside how well the training history does.

    Kernel ridge regression from users' features to items, fitted on three quarters of the users and judged on the
    fourth, each in turn. It is asked twice: fitted to held-out items, which finds what tells these alone, and to all
    items of a user, which finds what tells them like the others. Rivals of a user's held-out items are the other users'
    ones that he has not used, so popularity helps neither side.

    Args:
        features: [n_users, F]. present: [n_users] bool.
        history, held_out: users by items, of training and of validation. [n_users, n_items].
    Returns:
        The outcome in which the feature does better; None where there are too few users.
    """
    rng = np.random.default_rng(seed)
    used = np.bincount(held_out.indices, minlength=held_out.shape[1])
    items = np.sort(np.argsort(-used, kind="stable")[:_ITEMS])
    items = items[used[items] > 0]
    wanted = held_out[:, items]
    users = np.flatnonzero(present & (np.asarray((wanted != 0).sum(1)).ravel() > 0))
    if len(users) < MIN_USERS:
        return None
    users = rng.permutation(users)[:_USERS]
    new = np.asarray((wanted[users] != 0).todense(), dtype=bool)
    old = np.asarray((history[users][:, items] != 0).todense(), dtype=bool) & ~new
    past = np.asarray((history[users] @ history[users].T).todense(), dtype=np.float64)
    x = narrowed(features[users], seed)
    x = x - x.mean(0)
    kernels = _unit(x @ x.T), _unit(past)
    found = []
    for fitted_to in (new, new | old):
        judged = [_cross_fitted(kernel, fitted_to, new, old) for kernel in kernels]
        if len(judged[0]) >= MIN_USERS // 2:
            found.append(HeldOut(len(judged[0]), *(float(aucs.mean()) for aucs in judged)))
    return max(found, key=lambda one: one.by_feature, default=None)


def _unit(kernel: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.diag(kernel).clip(0))
    lengths[lengths == 0] = np.inf
    return kernel / np.outer(lengths, lengths)


def _cross_fitted(kernel: np.ndarray, fitted_to: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """AUC of the held-out items, of every user with one that the fit could know of; [users] float64.

    Args:
        kernel: likeness of users, [n, n]. fitted_to: items to learn, new: held-out items, old: items not to rank;
            [n, items] bool.
    """
    aucs = []
    fold = np.arange(len(kernel)) % _FOLDS
    for k in range(_FOLDS):
        fit, judge = fold != k, fold == k
        y = fitted_to[fit].astype(np.float64)
        seen = y.any(0)  # of the others nothing can be learned, by the feature or by histories
        weights = np.linalg.solve(kernel[np.ix_(fit, fit)] + 0.1 * np.eye(fit.sum()), y - y.mean(0))
        scores = kernel[np.ix_(judge, fit)] @ weights
        for score, wanted, known in zip(scores, new[judge], old[judge], strict=True):
            ranked = seen & ~known
            if wanted[ranked].any() and not wanted[ranked].all():
                aucs.append(auc(wanted[ranked], score[ranked]))
    return np.array(aucs)


def _rarer(labels: np.ndarray) -> int:
    return int(min(labels.sum(), (~labels).sum()))


def check_leaks(
    label_aucs: Mapping[str, float],
    split_aucs: Mapping[str, float],
    held_out: Mapping[str, HeldOut],
    unknown_split: list[str],
) -> Part:
    """Findings from the measurements.

    Args:
        label_aucs: column or feature -> AUC against the label.
        split_aucs: column of the interactions -> AUC of training against validation.
        held_out: feature of users -> outcome. unknown_split: features of users whose file does not say its split.
    """
    part = Part("leaks", "Leaks")
    for caption, found in (
        ("AUC of one column or feature alone against the label", label_aucs),
        ("AUC of one column of telling training from validation rows", split_aucs),
    ):
        if found:
            part.tables[caption] = [{"column": name, "AUC": value} for name, value in found.items()]
    if held_out:
        part.tables["AUC of a user's held-out items among those of other users"] = [
            {"feature": name, "users": one.users, "by the feature": one.by_feature, "by histories": one.by_history}
            for name, one in held_out.items()
        ]
    if not part.tables:
        part.facts["leaks"] = "nothing to look at: no labels, no further columns, no feature of users"
    for name, value in label_aucs.items():
        if value >= LEAK:
            part.find(
                "label-leak", "error", name,
                f"it tells the label with an AUC of {value:.3f} all by itself",
                "take it out unless it is known before the label, as what a user writes afterwards is not",
            )  # fmt: skip
    for name, value in split_aucs.items():
        if value >= SPLITS:
            part.find(
                "split-column", "warning", name,
                f"it tells training from validation rows with an AUC of {value:.3f}",
                "take it out of load_col, a model that reads it sees who is held out",
            )  # fmt: skip
    for name, one in held_out.items():
        if one.leaks:
            part.find(
                "label-leak", "error", name,
                f"it picks a user's held-out item among others with an AUC of {one.by_feature:.3f}, training histories "
                f"do with {one.by_history:.3f}",
                "make it from the training rows of the split alone, and see what recbole-llm audit says of its texts",
            )  # fmt: skip
    for name in unknown_split:
        part.find(
            "split-unknown", "note", name,
            "its file does not say from which split's training rows it was made",
            "make it with recbole-llm augment, which writes that down, or check its texts with recbole-llm audit",
        )  # fmt: skip
    return part
