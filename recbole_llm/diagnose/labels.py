"""Label balance: what a model without any knowledge reaches."""

import numpy as np

from recbole_llm.diagnose.findings import Part

RARE, VERY_RARE = 0.10, 0.01  # share of the rarer label: accuracy starts to say little; few rows carry all the signal
SHIFT = 0.20  # between training and validation, from which a threshold or a bias learned on one misleads on the other


def base_rate_log_loss(positive_share: float) -> float:
    """Log loss, in nats, of always saying the positive share: the entropy of the labels; 0 for one label only."""
    p = np.array([positive_share, 1.0 - positive_share])
    p = p[p > 0]
    return float(-(p * np.log(p)).sum()) + 0.0


def check_labels(train: np.ndarray | None, valid: np.ndarray | None) -> Part:
    """Balance of the labels.

    Args:
        train, valid: labels of the rows of each part, None where the data has none. [n] bool.
    """
    part = Part("labels", "Labels")
    if train is None or not len(train):
        part.facts["labels"] = "none: every interaction counts as positive, and the model draws its negatives"
        return part
    shares = {}
    for name, labels in (("training", train), ("validation", valid)):
        if labels is None or not len(labels):
            continue
        share = shares[name] = float(np.mean(labels))
        part.facts |= {
            f"{name} rows": len(labels),
            f"{name} positive share": share,
            f"{name} accuracy of the commoner label": max(share, 1.0 - share),
            f"{name} log loss of the base rate": base_rate_log_loss(share),
        }
    share = shares["training"]
    rarer = min(share, 1.0 - share)
    if rarer == 0.0:
        part.find(
            "label-balance", "error", "training rows",
            f"all {len(train)} labels are {'positive' if share else 'negative'}",
            "choose another threshold, there is nothing to tell apart",
        )  # fmt: skip
    elif rarer < RARE:
        part.find(
            "label-balance", "warning" if rarer < VERY_RARE else "note", "training rows",
            f"{rarer:.1%} of the labels are the rarer one, so a constant has an accuracy of {1 - rarer:.1%} and a log "
            f"loss of {base_rate_log_loss(share):.3f}",
            "report AUC or a ranking metric beside these two constants, not accuracy",
        )  # fmt: skip
    if abs(shares.get("validation", share) - share) > SHIFT:
        part.find(
            "label-shift", "note", "validation rows",
            f"{shares['validation']:.1%} are positive, of the training rows {share:.1%}",
            "compare models by AUC, which a shift of the base rate leaves alone",
        )  # fmt: skip
    return part
