"""All checks of a model and its data, gathered; the test split stays closed."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer, init_seed

from recbole_llm.diagnose import alignment, leaks, rows
from recbole_llm.diagnose.features import check_features
from recbole_llm.diagnose.findings import Finding, Part, ordered
from recbole_llm.diagnose.labels import check_labels
from recbole_llm.diagnose.scores import check_scores, check_vectors
from recbole_llm.diagnose.steps import Steps, first_steps
from recbole_llm.diagnose.training import check_training
from recbole_llm.experiment import load
from recbole_llm.experiment.data import build_data, build_model, train_loader
from recbole_llm.registry import is_closed_form
from recbole_llm.trainer.staged import stages_of

N_STEPS = 20  # enough that a branch behind a gate that starts at zero gets its gradient


@dataclass(frozen=True)
class Health:
    """What was found. subject: model, dataset, protocol and the like, for headings. parts: one a group of checks."""

    subject: dict[str, object]
    parts: list[Part]

    @property
    def findings(self) -> list[Finding]:
        """Of all parts, the severest first."""
        return ordered(self.parts)

    def plain(self) -> dict[str, object]:
        """Everything as plain data for JSON; what is not finite becomes None."""
        parts = {
            part.key: {
                "facts": part.facts,
                "tables": part.tables,
                "charts": [asdict(chart) for chart in part.charts],
            }
            for part in self.parts
        }
        return _plain({**self.subject, "findings": [asdict(f) for f in self.findings], "parts": parts})


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def health_of_run(folder: str | Path, n_steps: int = N_STEPS) -> Health:
    """Check a finished run; its files stay as they are.

    Args:
        n_steps: training steps looked at, from the trained weights on; 0 for none.
    Raises:
        CheckpointError: for what is no finished run, or one whose data has changed.
    """
    model, data = load(folder)
    return health(data.config, data, model, trained=True, n_steps=n_steps)


def health_of_model(config, n_steps: int = N_STEPS) -> Health:
    """Check a configuration before it is trained: its data, its features and its first steps.

    Raises:
        RecBoleLLMError: for whatever the user can mend.
    """
    init_seed(config["seed"], config["reproducibility"])
    data = build_data(config)
    return health(config, data, build_model(config, data), trained=False, n_steps=n_steps)


def health(config, data, model, trained: bool, n_steps: int = N_STEPS) -> Health:
    """Check a model and its data.

    Args:
        data: RecData, with the features' rows. model: changed by the steps that are taken.
        trained: whether the model is the result of a training; scores are then judged before any step, else after.
    """
    init_seed(config["seed"], config["reproducibility"])
    if trained:
        scored, experts = _scored(config, data, model, trained)
        steps, why_not = _steps(config, data, model, trained, n_steps)
    else:
        steps, why_not = _steps(config, data, model, trained, n_steps)
        scored, experts = _scored(config, data, model, trained)
    labels = rows.labels_of(data)
    parts = [
        check_labels(*((None, None) if labels is None else (labels[data.split.train], labels[data.split.valid]))),
        check_features(data.features, {f.id_field: rows.uses(data, f) for f in data.features.values()}),
        _alignment(data, labels),
        _leaks(config, data, labels),
        *scored,
        check_training(model, steps, experts, trained, why_not),
    ]
    subject = {
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "seed": config["seed"],
        "placebo": config["placebo"] or "none",
        "split": data.split.fingerprint,
        "trained": trained,
    }
    return Health(subject, parts)


def _scored(config, data, model, trained: bool) -> tuple[list[Part], dict]:
    """Parts about scores and item vectors, and what the scoring used of the experts."""
    closed = is_closed_form(type(model))
    if closed and not trained and any(True for _ in model.parameters()):
        for batch in train_loader(config, data):  # RecBole's Pop counts in its epoch
            model.calculate_loss(batch.to(config["device"]))
    usage = getattr(model, "expert_usage", dict)
    usage()  # drops what came before
    scores = check_scores(*rows.score_validation(config, data, model, trained, closed))
    vectors, what = rows.item_vectors(model, data.n_items)
    used = None if vectors is None else vectors[np.flatnonzero(data.item_counts)]
    return [scores, check_vectors(used, what)], usage()


def _steps(config, data, model, trained: bool, n_steps: int) -> tuple[Steps | None, str]:
    """The steps taken, or None and why there are none."""
    if n_steps < 1:
        return None, "none were asked for"
    if is_closed_form(type(model)):
        return None, "the model is solved in closed form"
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])
    if trainer._train_epoch is not Trainer._train_epoch:
        return None, f"{config['model']} is trained by {trainer.__name__}, whose steps are not calculate_loss alone"
    groups, groupless, frozen = _groups(config, model, trained)
    steps = first_steps(
        model, train_loader(config, data), groups, n_steps, config["device"], config["clip_grad_norm"] or None
    )
    steps.groupless, steps.frozen = groupless, frozen
    return steps, ""


def _groups(config, model, trained: bool) -> tuple[list[tuple[list[torch.nn.Parameter], float]], list[str], list[str]]:
    """Parameters and rates of the stage looked at, the checkpoint's or else the last, switched on as in training.

    Returns:
        Also the names of trainable parameters that no stage trains, and of those that the model holds back itself.
    """
    stages, named = stages_of(config), dict(model.named_parameters())
    if not config["stages"] or not hasattr(model, "parameter_groups"):
        frozen = [name for name, p in named.items() if not p.requires_grad]
        return [([p for p in named.values() if p.requires_grad], stages[0].groups["all"])], [], frozen
    stage = stages[-1]
    if hasattr(model, "set_stage"):
        if trained:
            stage = next((s for s in stages if s.name == model.stage), stage)
        model.set_stage(stage.name)
    of_group = model.parameter_groups()
    somewhere = {id(p) for s in stages for group in s.groups for p in of_group.get(group, ())}
    groupless = [name for name, p in named.items() if p.requires_grad and id(p) not in somewhere]
    frozen = [name for name, p in named.items() if not p.requires_grad and id(p) not in somewhere]
    for group, parameters in of_group.items():
        for p in parameters:
            p.requires_grad_(group in stage.groups)
    return (
        [(list(of_group[group]), rate) for group, rate in stage.groups.items() if group in of_group],
        groupless,
        frozen,
    )


def _alignment(data, labels: np.ndarray | None) -> Part:
    train = data.split.train if labels is None else data.split.train[labels[data.split.train]]
    used = rows.interactions(data, train)
    sides = {data.base.iid_field: used.T.tocsr(), data.base.uid_field: used}
    chosen = {name: f for name, f in data.features.items() if f.id_field in sides and np.isfinite(f.matrix).all()}
    found = {
        name: alignment.alignment(f.matrix, f.present, sides[f.id_field], seed=k)
        for k, (name, f) in enumerate(chosen.items())
    }
    return alignment.check_alignment(found, {name: f.side for name, f in chosen.items()})


def _leaks(config, data, labels: np.ndarray | None) -> Part:
    rng = np.random.default_rng(0)
    train, valid = (rng.permutation(part)[: leaks.MOST_ROWS] for part in (data.split.train, data.split.valid))
    label_aucs: dict[str, float] = {}
    split_aucs: dict[str, float] = {}
    held_out: dict[str, leaks.HeldOut] = {}
    both = np.concatenate([train, valid])
    halves = np.array_split(rng.permutation(len(both)), 2)
    times = None if data.base.raw.times is None else data.base.raw.times[both]
    for name, values, tokens, of_interactions in rows.columns_of(data):
        if labels is not None:
            label_aucs[name] = leaks.column_auc(values, labels, train, valid, tokens)
        by_time = name == data.base.time_field or rows.follows_time(values[both], times, tokens)
        if of_interactions and not by_time and not config["phases"]:  # phases hold out items, which columns describe
            is_valid = np.arange(len(both)) >= len(train)
            split_aucs[name] = leaks.column_auc(values[both], is_valid, *halves, tokens)
    history, wanted = (rows.interactions(data, part) for part in (data.split.train, data.split.valid))
    for name, feature in data.features.items():
        if feature.id_field not in data.base.inter_feat or not np.isfinite(feature.matrix).all():
            continue  # entities of a graph are in no interaction
        ids = data.base.inter_feat[feature.id_field].to_numpy().astype(np.int64)
        if labels is not None:
            x = np.concatenate([feature.matrix[ids[both]], feature.present[ids[both], None]], 1)
            at = np.arange(len(train)), len(train) + np.arange(len(valid))
            label_aucs[name] = leaks.probe_auc(x, labels[both], *at)
        elif feature.id_field == data.base.uid_field:
            one = leaks.held_out_auc(feature.matrix, feature.present, history, wanted)
            if one is not None:
                held_out[name] = one
    unknown = [name for name, f in data.features.items() if f.side == "user" and "split" not in f.metadata]
    label_aucs, split_aucs = ({k: v for k, v in x.items() if not math.isnan(v)} for x in (label_aucs, split_aucs))
    return leaks.check_leaks(label_aucs, split_aucs, held_out, unknown)
