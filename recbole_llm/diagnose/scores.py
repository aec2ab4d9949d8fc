"""Scores of validation rows: not finite, all equal, saturated, or bounded away from the base rate."""

from dataclasses import dataclass

import numpy as np

from recbole_llm.diagnose.features import cosine_histogram, cosines
from recbole_llm.diagnose.findings import Histogram, Part
from recbole_llm.diagnose.labels import base_rate_log_loss

SATURATED = 0.01  # distance from 0 or 1 at which the sigmoid's slope is 4 % of its largest
MANY = 0.50  # share of saturated scores from which the model hardly learns
WRONG = 0.10  # share of the saturated scores that are wrong: each claims to be wrong in one case of a hundred
CONSTANT = 1e-6  # range of scores over their size; float32 keeps seven digits
COLLAPSED = 0.95  # mean cosine of two items' vectors: the directions tell hardly any two apart
WORSE = 1.02  # log loss over that of the base rate: two hundredths are noise of a few hundred rows


@dataclass(frozen=True)
class Scored:
    """Scores of some validation rows.

    Attributes:
        scores: one row a user and one column an item; or one column, of labelled pairs. [n, m] float64.
        labels: whether the item is the row's positive. [n, m] bool.
        counted: False where the evaluation would not look: padding, known history. [n, m] bool.
        pairs: whether the rows are labelled pairs, whose positive share is a base rate of the data.
        logits: whether scores outside [0, 1] are logits of a model that learns from labels.
        trained: whether they are a finished training's.
        unpersonal: whether the model is a closed form, which may rank alike for all by design.
    """

    scores: np.ndarray
    labels: np.ndarray
    counted: np.ndarray
    pairs: bool = False
    logits: bool = False
    trained: bool = True
    unpersonal: bool = False


def probabilities(scores: np.ndarray, logits: bool) -> np.ndarray | None:
    """Scores as probabilities where they can be meant so: all in [0, 1], or said to be logits; else None. [n]."""
    if len(scores) and scores.min() >= 0.0 and scores.max() <= 1.0:
        return scores
    return 1.0 / (1.0 + np.exp(-scores.clip(-500, 500))) if logits else None


def check_scores(scored: Scored | None, why_not: str = "") -> Part:
    """Measurements and findings of scores; ``why_not`` stands in the page where there are none."""
    part = Part("scores", "Scores")
    if scored is None:
        part.facts["scores"] = why_not
        return part
    values, labels = scored.scores[scored.counted], scored.labels[scored.counted]
    part.facts |= {
        "of": "the checkpoint" if scored.trained else "the model after the steps below, not trained to the end",
        "rows": len(scored.scores),
        "scores": len(values),
        "positive share": float(labels.mean()) if len(labels) else None,
    }
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad:
        part.find(
            "scores-not-finite", "error", "scores", f"{n_bad} of {len(values)} scores are NaN or infinite",
            "lower the learning rate, clip the gradient, and look at the features' findings",
        )  # fmt: skip
        return part
    if not len(values):
        return part
    part.facts |= {
        "mean": float(values.mean()),
        "standard deviation": float(values.std()),
        "smallest": float(values.min()),
        "largest": float(values.max()),
    }
    counts, edges = np.histogram(values, bins=40)
    part.charts.append(Histogram("scores of validation rows", "score", edges.tolist(), counts.tolist()))
    if not _constant(part, scored, values):
        _judge_probabilities(part, scored, values, labels)
    return part


def _constant(part: Part, scored: Scored, values: np.ndarray) -> bool:
    """Whether all scores are equal, or all rows are."""
    tolerance = CONSTANT * max(float(np.abs(values).max()), np.finfo(np.float32).tiny)
    if np.ptp(values) <= tolerance:
        part.find(
            # a closed form over ids knows nothing of items that are cold on purpose
            "constant-scores", "note" if scored.unpersonal else "error", "scores",
            f"all {len(values)} scores are {values[0]:.4g}",
            "look for a branch that multiplies by zero, or a unit that is always off",
        )  # fmt: skip
        return True
    if scored.pairs or len(scored.scores) < 2:
        return False
    masked = np.where(scored.counted, scored.scores, np.nan)
    rows_spread = np.nanmax(masked, 1, initial=-np.inf) - np.nanmin(masked, 1, initial=np.inf)
    if (rows_spread <= tolerance).all():
        part.find(
            "constant-scores", "error", "scores", "every user scores all items alike",
            "look at what the item side reads; its vectors are the same for all items",
        )  # fmt: skip
    columns = scored.counted.sum(0) > 1
    spread = np.nanmax(masked[:, columns], 0, initial=-np.inf) - np.nanmin(masked[:, columns], 0, initial=np.inf)
    if columns.any() and (spread <= tolerance).all():
        part.find(
            "constant-scores", "note" if scored.unpersonal else "error", "scores", "all users get the same scores",
            "expect it of popularity alone; else look at what the user side reads",
        )  # fmt: skip
    return False


def _judge_probabilities(part: Part, scored: Scored, values: np.ndarray, labels: np.ndarray) -> None:
    p = probabilities(values, scored.logits)
    if p is None:
        part.facts["probabilities"] = "no: scores outside [0, 1] that only rank"
        return
    extreme = (p < SATURATED) | (p > 1.0 - SATURATED)
    wrong = (p > 0.5) != labels
    share = float(extreme.mean())
    wrong_share = float(wrong[extreme].mean()) if extreme.any() else 0.0
    part.facts |= {"saturated share": share, "of the saturated, wrong": wrong_share}
    logits = np.log(p.clip(1e-12, 1.0)) - np.log((1.0 - p).clip(1e-12, 1.0))
    counts, edges = np.histogram(logits.clip(-12, 12), bins=40, range=(-12.0, 12.0))
    part.charts.append(Histogram("logits of validation rows", "logit", edges.tolist(), counts.tolist()))
    if share > MANY and wrong_share > WRONG:
        part.find(
            "saturated-scores", "error", "scores",
            f"{share:.1%} of the probabilities are within {SATURATED} of 0 or 1, and {wrong_share:.1%} of these are "
            "wrong",
            "give the logit a bias and a smaller or learned scale; a product of ReLU outputs is never negative",
        )  # fmt: skip
    if not scored.pairs:
        return  # the share of positives in a catalogue is no base rate: the model drew its own negatives
    base = float(labels.mean())
    q = p.clip(1e-7, 1 - 1e-7)
    loss, constant = float(-np.where(labels, np.log(q), np.log(1 - q)).mean()), base_rate_log_loss(base)
    part.facts |= {"log loss": loss, "log loss of the base rate": constant}
    if not scored.trained or not 0.0 < base < 1.0:
        return
    if not p.min() <= base <= p.max():
        part.find(
            "score-range", "error", "scores",
            f"every probability lies in [{p.min():.3f}, {p.max():.3f}], but {base:.1%} of the rows are positive",
            "give the logit a bias, and a scale that reaches the base rate",
        )  # fmt: skip
    elif loss > WORSE * constant:
        part.find(
            "worse-than-base-rate", "warning", "scores",
            f"the log loss is {loss:.3f}, always saying the base rate has {constant:.3f}",
            "do not read its scores as probabilities; train longer, or calibrate them on validation rows",
        )  # fmt: skip


def check_vectors(vectors: np.ndarray | None, what: str = "") -> Part:
    """Cosines between the model's item vectors. vectors: of items in use, [n, D], or None where it has none."""
    part = Part("vectors", "Item vectors")
    if vectors is None or len(vectors) < 3:
        part.facts["vectors"] = "the model has no table of item vectors to look at"
        return part
    if not np.isfinite(vectors).all():
        part.find(
            "vectors-not-finite", "error", what, "some item vectors are NaN or infinite",
            "lower the learning rate, clip the gradient, and look at the features' findings",
        )  # fmt: skip
        return part
    found = cosines(vectors)
    if not len(found):
        part.facts["vectors"] = "all item vectors are zero"
        return part
    part.facts |= {"of": what, "items": len(vectors), "width": vectors.shape[1], "mean cosine": float(found.mean())}
    part.charts.append(cosine_histogram(found, f"{what}: cosines between items"))
    if found.mean() > COLLAPSED:
        part.find(
            "collapsed-vectors", "warning", what, f"two items' vectors have a cosine of {found.mean():.3f} on average",
            "whiten the features, use fewer graph layers, or add a loss that keeps items apart",
        )  # fmt: skip
    return part
