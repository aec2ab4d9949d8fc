"""Some training steps, and what was seen in them: losses, gradients by component, parameters that moved, dead units."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_


@dataclass
class Steps:
    """What was seen in some training steps.

    Attributes:
        losses: sum of the loss parts, by step.
        norms: component -> norm of its gradient, by step.
        sizes: component -> trainable parameters.
        largest: parameter -> largest absolute gradient over all steps; 0.0: never any.
        moved: parameter -> whether it changed.
        frozen: parameters that the model holds back from training, by name.
        groupless: trainable parameters that belong to no group of any stage.
        units: ReLU -> (units, units that no row switched on).
        stopped: why there are fewer steps than wanted; "".
    """

    losses: list[float] = field(default_factory=list)
    norms: dict[str, list[float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    moved: dict[str, bool] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    groupless: list[str] = field(default_factory=list)
    units: dict[str, tuple[int, int]] = field(default_factory=dict)
    stopped: str = ""


def components(model: nn.Module) -> dict[str, list[str]]:
    """Parts of the model -> names of their parameters: its children, those of a list one by one, its own tensors."""
    lists = {name for name, child in model.named_children() if isinstance(child, (nn.ModuleList, nn.ModuleDict))}
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        head, *rest = name.split(".")
        found.setdefault(f"{head}.{rest[0]}" if head in lists and rest else head, []).append(name)
    return found


def first_steps(
    model: nn.Module,
    loader: Iterable,
    groups: list[tuple[list[nn.Parameter], float]],
    n_steps: int,
    device: torch.device,
    clip: Mapping[str, float] | None = None,
) -> Steps:
    """Train for some steps, by Adam, and look at every parameter. The model is changed.

    Args:
        loader: yields batches of ``model.calculate_loss``; gone through again where it ends early.
        groups: parameters and their learning rate; the others are not trained.
        clip: arguments of ``clip_grad_norm_``.
    """
    steps, parts = Steps(), components(model)
    chosen = {id(p) for parameters, _ in groups for p in parameters}
    named = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) in chosen}
    steps.largest = dict.fromkeys(named, 0.0)
    parts = {part: [name for name in names if name in named] for part, names in parts.items()}
    parts = {part: names for part, names in parts.items() if names}
    steps.norms = {part: [] for part in parts}
    steps.sizes = {part: sum(named[name].numel() for name in names) for part, names in parts.items()}
    if not named:
        steps.stopped = "no trainable parameter"
        return steps
    before = {name: p.detach().clone() for name, p in named.items()}
    optimizer = torch.optim.Adam([{"params": parameters, "lr": rate} for parameters, rate in groups if parameters])
    model.train()
    with _units(model, steps), torch.enable_grad():
        for batch in _repeated(loader, n_steps):
            optimizer.zero_grad(set_to_none=True)
            loss = model.calculate_loss(batch.to(device))
            loss = sum(loss) if isinstance(loss, tuple) else loss
            steps.losses.append(float(loss.detach().sum()))
            if not math.isfinite(steps.losses[-1]):
                steps.stopped = f"the loss of step {len(steps.losses)} is not finite"
                break
            if not loss.requires_grad:
                steps.stopped = "the loss depends on no parameter"
                break
            loss.sum().backward()
            _note_gradients(steps, parts, named)
            if clip:
                clip_grad_norm_(list(named.values()), **clip)
            optimizer.step()
    if not steps.losses:
        steps.stopped = "the training split gives no batch"
    steps.moved = {name: not torch.equal(before[name], p.detach()) for name, p in named.items()}
    return steps


def _repeated(loader: Iterable, n: int):
    done = 0
    while done < n:
        start = done
        for batch in loader:
            if done == n:
                return
            yield batch
            done += 1
        if done == start:
            return


def _note_gradients(steps: Steps, parts: Mapping[str, list[str]], named: Mapping[str, nn.Parameter]) -> None:
    for part, names in parts.items():
        squares = 0.0
        for name in names:
            gradient = named[name].grad
            if gradient is None:
                continue
            values = (gradient.coalesce().values() if gradient.is_sparse else gradient).detach().double()
            if values.numel():
                squares += float(values.square().sum())
                steps.largest[name] = max(steps.largest[name], float(values.abs().max()))
        steps.norms[part].append(math.sqrt(squares))


class _units:
    """While open, notes which units of every ``nn.ReLU`` some row switches on. Functional relu cannot be watched."""

    def __init__(self, model: nn.Module, steps: Steps) -> None:
        self.model, self.steps, self.on, self.handles = model, steps, {}, []

    def __enter__(self) -> None:
        for name, module in self.model.named_modules():
            if isinstance(module, nn.ReLU):
                self.handles.append(module.register_forward_hook(self._watch(name)))

    def _watch(self, name: str) -> Callable:
        def watch(_module, _inputs, output) -> None:
            on = (output.detach() > 0).reshape(-1, output.shape[-1]).any(0)  # [units]
            known = self.on.get(name)
            # the same ReLU after layers of different widths (RecBole's MLPs may share one) has no units of its own
            self.on[name] = on if known is None or len(known) != len(on) else known | on

        return watch

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()
        self.steps.units = {name: (len(on), int((~on).sum())) for name, on in self.on.items()}
