"""The first training steps: does the loss fall, does every part of the model get a gradient and move?"""

import math
from collections.abc import Mapping

import numpy as np
from torch import nn

from recbole_llm.diagnose.findings import Lines, Part
from recbole_llm.diagnose.steps import Steps

DEAD_UNITS = 0.50  # share of a ReLU's units that no row switches on; some are dead at random in a narrow layer
DEAD_UNITS_NOTE = 0.10
RISES = 1.5  # loss of the last steps over that of the first: an optimiser that starts anew shakes a trained model less
DIVERGES = 10.0  # over that of the very first step, where the first ones have gone up already
DEAD_EXPERT = 0.01  # of an equal share among the experts of a modality
N_DRAWN = 8  # components in the chart of gradient norms


def dead_branches(model: nn.Module, dead: set[str], trainable: set[str]) -> tuple[list[str], list[str]]:
    """Modules none of whose trainable parameters is alive, the outermost alone, and single parameters beside them.

    Args:
        dead, trainable: names of parameters.
    """
    branches: list[str] = []
    for name, _ in model.named_modules():  # outer modules come before inner ones
        prefix = f"{name}." if name else ""
        own = {p for p in trainable if p.startswith(prefix)}
        inside = any(name.startswith(f"{branch}.") or not branch for branch in branches)
        if own and own <= dead and not inside:
            branches.append(name)
    single = [p for p in sorted(dead) if not any(p.startswith(f"{b}.") or not b for b in branches)]
    return branches, single


def check_training(
    model: nn.Module, steps: Steps | None, experts: Mapping[str, Mapping[str, float]], trained: bool, why_not: str = ""
) -> Part:
    """Findings from the steps.

    Args:
        steps: None where none were taken, for ``why_not``.
        experts: modality -> expert -> share of its gate; empty where the model has none.
        trained: whether the steps started from a trained model.
    """
    part = Part("training", "First training steps")
    _experts(part, experts, trained)
    if steps is None:
        part.facts["steps"] = f"none: {why_not}"
        return part
    part.facts["steps"] = len(steps.losses)
    if steps.stopped:
        part.facts["stopped"] = steps.stopped
    if steps.losses:
        part.facts |= {"first loss": steps.losses[0], "last loss": steps.losses[-1]}
        part.charts.append(Lines("loss", "loss", {"loss": [_finite(v) for v in steps.losses]}))
    _loss(part, steps, trained)
    norms = {name: values for name, values in steps.norms.items() if values}
    if norms:
        drawn = sorted(norms, key=lambda name: -steps.sizes[name])[:N_DRAWN]
        series = {name: [_finite(v) or None for v in norms[name]] for name in drawn}
        part.charts.append(Lines("gradient norm by component", "norm", series, logarithmic=True))
        part.tables["gradient by component"] = [
            {
                "component": name,
                "parameters": steps.sizes[name],
                "mean norm": float(np.mean(values)),
                "steps with a gradient": int(np.count_nonzero(values)),
            }
            for name, values in norms.items()
        ]
        _branches(part, model, steps)
    _dead_units(part, steps)
    return part


def _loss(part: Part, steps: Steps, trained: bool) -> None:
    if any(not math.isfinite(v) for v in steps.losses):
        part.find(
            "loss-not-finite", "error", "loss", steps.stopped,
            "lower the learning rate, clip the gradient, and look at the features' findings",
        )  # fmt: skip
        return
    n = len(steps.losses) // 4
    if n < 1 or not any(steps.largest.values()):
        return
    first, last = float(np.mean(steps.losses[:n])), float(np.mean(steps.losses[-n:]))
    start = steps.losses[0]
    if last > first + (RISES - 1.0) * abs(first) or last > start + (DIVERGES - 1.0) * abs(start):
        part.find(
            "loss-rises", "warning", "loss", f"it goes from {start:.4g} to {last:.4g} in {len(steps.losses)} steps",
            "lower the learning rate, or let it warm up",
        )  # fmt: skip
    elif not trained and last >= first:
        part.find(
            "loss-stands", "note", "loss", f"it does not fall in {len(steps.losses)} steps ({first:.4g} to {last:.4g})",
            "look at more steps with --steps before you worry",
        )  # fmt: skip


def _branches(part: Part, model: nn.Module, steps: Steps) -> None:
    trainable = set(steps.largest)
    dead = {name for name, value in steps.largest.items() if value == 0.0}
    branches, single = dead_branches(model, dead, trainable)
    for name in branches:
        part.find(
            "untrained-branch", "error", name or "the whole model",
            f"none of its parameters got a gradient in {len(steps.losses)} steps",
            "look for no_grad, detach or an argmax between it and the loss, or for a switch that leaves it out",
        )  # fmt: skip
    sizes = dict(model.named_parameters())
    for name in single:
        part.find(
            # a bias before a softmax has none by arithmetic
            "untrained-parameter", "warning" if sizes[name].dim() > 1 else "note", name,
            f"it got no gradient in {len(steps.losses)} steps, while its neighbours did",
            "remove it, or look why the loss does not read it",
        )  # fmt: skip
    still = [name for name, moved in steps.moved.items() if not moved and steps.largest[name] > 0]
    if still:
        part.find(
            "not-moved", "error", still[0],
            f"{len(still)} parameters got a gradient and did not change in {len(steps.losses)} steps",
            "look at their learning rate, and whether the steps are lost in their precision",
        )  # fmt: skip
    if steps.groupless:
        part.find(
            "untrained-branch", "error", steps.groupless[0],
            f"{len(steps.groupless)} trainable parameters are in no group that a stage trains",
            "name them in parameter_groups, or their group in stages",
        )  # fmt: skip
    if steps.frozen:
        part.find(
            "frozen-parameters", "note", steps.frozen[0],
            f"{len(steps.frozen)} parameters have requires_grad false",
            "make tables that are frozen by design buffers, so that a forgotten switch can be told from them",
        )  # fmt: skip


def _dead_units(part: Part, steps: Steps) -> None:
    if steps.units:
        part.tables["units of every nn.ReLU; functional relu cannot be watched"] = [
            {"layer": name, "units": n, "never on": dead} for name, (n, dead) in steps.units.items()
        ]
    for name, (n, dead) in steps.units.items():
        if dead > DEAD_UNITS_NOTE * n:
            part.find(
                "dead-units", "warning" if dead > DEAD_UNITS * n else "note", name,
                f"{dead} of {n} units are off for every row of {len(steps.losses)} steps",
                "lower the learning rate, look at the scale of what the layer reads, or use GELU",
            )  # fmt: skip


def _experts(part: Part, experts: Mapping[str, Mapping[str, float]], trained: bool) -> None:
    rows = [
        {"modality": modality, "expert": expert, "share": share}
        for modality, shares in experts.items()
        for expert, share in shares.items()
    ]
    if rows:
        part.tables["share of every expert in its modality"] = rows
    for modality, shares in experts.items() if trained else ():
        for expert, share in shares.items():
            if len(shares) > 1 and share < DEAD_EXPERT / len(shares):
                part.find(
                    "dead-expert", "warning", f"{modality}: {expert}",
                    f"its gate has a share of {share:.2%} among {len(shares)} experts",
                    "raise the weight of the load balance, or take the expert out",
                )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
