"""What a trained model learns from the rows of a phase, without forgetting what it knew.

A model may say itself how: :class:`PhaseUpdate` is what its ``update_phase`` receives. Every other model makes some
epochs of gradient steps on the rows.
"""

from dataclasses import dataclass

import torch
from recbole.data.interaction import Interaction
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class PhaseUpdate:
    """A phase, for a model with ``update_phase(update: PhaseUpdate) -> bool``.

    The model on which it is called was built anew on the training rows and the rows of all phases so far (graph,
    histories, counts) and given the weights from before the phase; see :func:`carry_weights` for what else it keeps.
    The method changes the model's parameters as it likes, in place; it is in train mode, and what the last stage of the
    training froze is frozen. It sees no evaluation row. It returns whether it has learnt from them: False asks for the
    gradient steps of other models.

    Attributes:
        phase: "warm-a", "warm-b" or "warm-c".
        rows: what the phase adds: user and item ids and columns, the label where the model asks for labelled rows, else
            the positive rows alone. [n], in time order, on the model's device.
        epochs, batches, learning_rate: passes over the rows, steps a pass and step size: the settings update_epochs,
            update_batches and update_learning_rate.
    """

    phase: str
    rows: Interaction
    epochs: int
    batches: int
    learning_rate: float


@torch.no_grad()
def carry_weights(source, target) -> None:
    """Give a model that was built on more rows what the one before has learnt.

    Parameters, frozen ones too, and the running statistics of batch normalisation. No other buffer: they are made of
    interactions, and the target has made its own.
    """
    learnt = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        parameter.copy_(learnt[name])
    modules = dict(source.named_modules())
    for name, module in target.named_modules():
        if isinstance(module, _BatchNorm):
            module.load_state_dict(modules[name].state_dict())


def gradient_steps(trainer, loader, update: PhaseUpdate) -> None:
    """Epochs over a phase's rows with the fresh optimiser of a trainer; the last weights stay, nothing is chosen."""
    trainer.stage, trainer.epochs, trainer.lr_schedule = update.phase, update.epochs, "constant"
    for group in trainer.optimizer.param_groups:
        group["lr"] = update.learning_rate
    trainer.fit(loader, verbose=False, saved=False)
