"""The phases of a run: a chosen model scores the same rows cold, and after learning from warm-a, warm-b and warm-c.

Each phase adds rows of the items to what the model knows. A closed-form model is solved again on all of it. Any other
is built again on it, so that graphs and histories hold the new rows, keeps its weights, and is updated with the new
rows; see ``trainer/phase_update.py``. The weights go on from phase to phase; the chosen model is left as it was.
"""

import copy
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from recbole.utils import get_trainer, init_seed

from recbole_llm.data.phases import PHASES, PhasedRows
from recbole_llm.experiment.data import build_model, pooled_data, train_loader
from recbole_llm.registry import is_closed_form
from recbole_llm.trainer import checkpoint
from recbole_llm.trainer.phase_update import PhaseUpdate, carry_weights, gradient_steps
from recbole_llm.trainer.staged import StagedTraining


def measure(
    config, data, model, part: str, say=lambda line: None, until: str = PHASES[-1]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of every phase over the items of a part.

    Args:
        data: PhasedData. model: the chosen one, trained on the training rows; it is not changed.
        part: "valid", or "test", which opens the test rows (once a run).
        say: receives a line a phase. until: the last phase.
    Returns:
        ``cold/auc`` ... ``warm-c/f1``; a column ``user`` of tokens and the AUC of each user's own rows in every phase,
        of the users who have rows of both labels.
    """
    rows: PhasedRows = data.split.validation if part == "valid" else data.split.open_phases()
    pool = pooled_data(config, data, rows.evaluation)
    metrics, users, known = {}, {}, data.split.train
    for phase, new in zip(PHASES[: PHASES.index(until) + 1], (None, *rows.warm), strict=False):
        if new is not None:
            known = np.concatenate([known, new])
            with _own_randomness(config["seed"], config["reproducibility"]):
                model = updated(config, data.knowing(known), model, phase, new)
        scores = pool.scores(model, config["device"])
        found = pool.measure(scores, phase)
        say(f"{part}, {phase}: " + ", ".join(f"{name.rpartition('/')[2]} {v:.4f}" for name, v in found.items()))
        metrics |= found
        ids, auc = pool.users(scores)
        users |= {"user": data.base.field2id_token[data.base.uid_field][ids], f"{phase}/auc": auc}
    return metrics, users


@torch.enable_grad()  # validation, in which a trained model may be updated, runs without
def updated(config, data, model, phase: str, new: np.ndarray):
    """What becomes of a model in a phase.

    Args:
        data: PhasedData that knows the phase's rows. new: these rows. [n] int64.
        model: as it was before the phase; it is not changed.
    Returns:
        Another model, in eval mode.
    """
    after = build_model(config, data)
    closed_form = is_closed_form(type(model))
    if not closed_form:
        carry_weights(model, after)
    trainer = _trainer(config, after)
    if closed_form:
        if trainer.optimizer is not None:  # RecBole's Pop counts in an epoch; others are solved when they are built
            trainer.fit(train_loader(config, data), verbose=False, saved=False)
        return after.eval()
    if not len(data.learnt(new)):
        return after.eval()
    added = data.dataset(new)
    update = PhaseUpdate(
        phase=phase,
        rows=added.join(added.inter_feat).to(config["device"]),
        epochs=config["update_epochs"],
        batches=config["update_batches"],
        learning_rate=config["update_learning_rate"],
    )
    after.train()
    if not (hasattr(after, "update_phase") and after.update_phase(update)):
        gradient_steps(trainer, _loader(config, data, added, update.batches), update)
    return after.eval()


def _loader(config, data, added, batches: int):
    """The training loader over a phase's rows, in so many batches.

    So validation's few items and the many of the test learn in equally many steps.
    """
    whole = train_loader(config, data, added)
    whole = getattr(whole, "general_dataloader", whole)  # RecBole's for knowledge graphs has one of the rows inside
    n = getattr(whole, "sample_size", len(added))  # RecBole's: rows, or users for an autoencoder
    per_row = round(config["train_batch_size"] / whole.batch_size)  # RecBole counts a row's sampled negatives in
    settings = copy.copy(config)
    settings.final_config_dict = config.final_config_dict | {"train_batch_size": max(per_row, 1) * -(-n // batches)}
    return train_loader(settings, data, added)


@contextmanager
def _own_randomness(seed: int, reproducibility: bool):
    """Seeds the generators, and gives them back as they were: an update in a validation leaves the training alone."""
    before = checkpoint.rng_state()
    init_seed(seed, reproducibility)
    try:
        yield
    finally:
        checkpoint.set_rng_state(before)


def _trainer(config, model):
    """A trainer of the model's last stage, which has trained nothing."""
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    training = StagedTraining(config, model, base, Path(config["checkpoint_dir"]), {}, lambda line: None)
    return training._trainer(len(training.stages) - 1)
