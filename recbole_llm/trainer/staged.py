"""Training in stages: each trains some parameter groups and starts from the best checkpoint of the one before.

A model offers ``parameter_groups() -> {name: parameters}`` and, if its losses depend on the stage,
``set_stage(name)``. Models without groups, RecBole's own among them, train in one stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from recbole.trainer import Trainer

from recbole_llm.errors import ConfigError
from recbole_llm.trainer import checkpoint
from recbole_llm.trainer.eval_data import EvalData
from recbole_llm.trainer.hooks import hooked

SCHEDULES = ("constant", "cosine", "plateau")
_OPTIONAL = ("epochs", "patience", "lr_schedule")


@dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
        name: also what ``set_stage`` receives.
        groups: parameter group -> learning rate; groups that are not named are frozen.
        epochs: at most so many.
        patience: stop after more than this many validations without a new best.
        lr_schedule: "constant", or "cosine": from the groups' rates down to 2 % of them over the stage's epochs, or
            "plateau": halved at every third validation in a row without a new best.
    """

    name: str
    groups: dict[str, float]
    epochs: int
    patience: int
    lr_schedule: str


@dataclass
class StageResult:
    """What a stage did; plain data, in full precision.

    Attributes:
        start_valid: validation score of the checkpoint it started from; None in the first stage.
        best_epoch: 1-based; 0 when the starting checkpoint stayed the best.
        train_loss: sum of the loss parts by epoch.
        valid_curve: [epoch, counted from 1, and validation score] of every validation after one.
        seconds_per_epoch: mean of the training part of an epoch.
    """

    name: str
    start_valid: float | None
    best_valid: float
    best_epoch: int
    epochs: int
    valid: dict[str, float]
    train_loss: list[float]
    seconds_per_epoch: float
    eval_seconds: float
    trainable: int = 0
    groups: dict[str, float] = field(default_factory=dict)
    valid_curve: list[list[float]] = field(default_factory=list)


def stages_of(config) -> list[Stage]:
    """The stages of a config; one stage over all parameters from RecBole's own keys when it names none.

    Raises:
        ConfigError: naming the stage and key that is missing, unknown or of the wrong kind.
    """
    if config["eval_step"] < 1:
        raise ConfigError("eval_step must be at least 1: a stage is chosen by its validations")
    if not config["stages"]:
        groups = {"all": float(config["learning_rate"])}
        return [
            Stage(
                "train", groups, int(config["epochs"]), int(config["stopping_step"]), _schedule(config, "train", None)
            )
        ]
    per_stage = config["epochs_per_stage"]
    stages = []
    for k, entry in enumerate(config["stages"]):
        if not isinstance(entry, Mapping) or not {"name", "groups"} <= set(entry):
            raise ConfigError(f"stages[{k}] needs the keys name and groups (and may have {', '.join(_OPTIONAL)})")
        unknown = set(entry) - {"name", "groups", *_OPTIONAL}
        if unknown:
            raise ConfigError(f"stages[{k}] ({entry['name']}) has an unknown key '{min(unknown)}'")
        name, groups = str(entry["name"]), entry["groups"]
        if not isinstance(groups, Mapping) or not groups:
            raise ConfigError(f"stage {name}: groups must map parameter groups to learning rates, not {groups!r}")
        epochs = entry.get("epochs", per_stage[k] if per_stage and k < len(per_stage) else config["epochs"])
        patience = entry.get("patience", config["patience"] if config["patience"] is not None else 5)
        for key, value in (("epochs", epochs), ("patience", patience)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"stage {name}: {key} must be a whole number of at least 0, not {value!r}")
        rates = {group: _rate(config, rate, name) for group, rate in groups.items()}
        stages.append(Stage(name, rates, epochs, patience, _schedule(config, name, entry.get("lr_schedule"))))
    return stages


def _schedule(config, stage: str, own: str | None) -> str:
    """The stage's own schedule, or the config's."""
    chosen = config["lr_schedule"] if own is None else own
    if chosen not in SCHEDULES:
        raise ConfigError(
            f"stage {stage}: lr_schedule is {chosen!r}; choose {', '.join(SCHEDULES[:-1])} or {SCHEDULES[-1]}"
        )
    return chosen


def _rate(config, rate: float | str, stage: str) -> float:
    """A learning rate, given as a number or as the name of the key that holds it."""
    value = config[rate] if isinstance(rate, str) else rate
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"stage {stage}: learning rate {rate!r} is not a number > 0 nor a key that holds one")
    return float(value)


class StagedTraining:
    """Runs the stages of a model through a RecBole trainer, resumable at every epoch.

    Args:
        config: RecBole's Config.
        model: the model, on its device.
        base: RecBole trainer class.
        folder: run folder; ``last.pt`` is written every epoch, ``best-<k>-<stage>.pt`` at every new best.
        identity: see TrainerHooks.
        report: called with one line of text after every epoch and stage.

    Attributes:
        results: of the stages that have ended.
        resumed_after: epochs of all stages in the checkpoint that it went on from; 0 if it began anew.
    """

    def __init__(
        self,
        config,
        model,
        base: type[Trainer],
        folder: Path,
        identity: dict[str, object],
        report: Callable[[str], None],
    ) -> None:
        self.config, self.model, self.base, self.report = config, model, base, report
        self.folder, self.identity = folder, identity
        self.stages = stages_of(config)
        self.results: list[StageResult] = []
        self.resumed_after = 0

    @property
    def last_file(self) -> Path:
        return self.folder / "last.pt"

    def best_file(self, k: int) -> Path:
        return self.folder / f"best-{k + 1}-{self.stages[k].name}.pt"

    def fit(self, train_loader, valid: EvalData, resume: bool, show_progress: bool):
        """Train all stages.

        Args:
            resume: continue from ``last.pt`` where it exists.
        Returns:
            The trainer of the last stage, its model holding the best weights.
        """
        state = checkpoint.load(self.last_file, self.config["device"]) if resume and self.last_file.is_file() else None
        first = 0
        if state is not None:
            first = state["stage_index"]
            self.results = [StageResult(**r) for r in state["results"]]
            self.resumed_after = sum(r.epochs for r in self.results) + state["epoch"] + 1
            self.report(f"resuming after epoch {state['epoch'] + 1} of stage {self.stages[first].name}")
        trainer = None
        for k in range(first, len(self.stages)):
            trainer = self._run_stage(k, train_loader, valid, state if k == first else None, show_progress)
        return trainer

    def _trainer(self, k: int):
        stage = self.stages[k]
        if hasattr(self.model, "set_stage"):
            self.model.set_stage(stage.name)
        trainer = hooked(self.base)(self.config, self.model)
        groups = self._parameter_groups()
        missing = set(stage.groups) - set(groups)
        if missing:
            raise ConfigError(
                f"stage {stage.name} trains the group '{min(missing)}', but {type(self.model).__name__} has "
                f"{', '.join(sorted(groups))}"
            )
        for name, parameters in groups.items():
            for p in parameters:
                p.requires_grad_(name in stage.groups)
        if self.config["stages"]:
            trainer.epochs = stage.epochs
            trainer.eval_step = min(self.config["eval_step"], stage.epochs)
        trainer.stopping_step = stage.patience
        trainer.stage, trainer.lr_schedule, trainer.identity = stage.name, stage.lr_schedule, self.identity
        trainer.saved_model_file = str(self.best_file(k))
        if "all" not in stage.groups or len(groups) > 1:
            trainer.optimizer = trainer._build_optimizer(
                params=[{"params": groups[name], "lr": rate} for name, rate in stage.groups.items()]
            )
        return trainer

    def _parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        if hasattr(self.model, "parameter_groups") and self.config["stages"]:
            return self.model.parameter_groups()
        return {"all": [p for p in self.model.parameters() if p.requires_grad]}

    def _run_stage(self, k: int, loader, valid: EvalData, state, show_progress: bool):
        stage, trainer = self.stages[k], self._trainer(k)
        start_valid = None
        if state is not None:
            trainer.load_training_state(state, loader)
            start_valid = state["start_valid"]
        elif k > 0:
            trainer.load_model(self.best_file(k - 1))
            start_valid, result = trainer._valid_epoch(valid)
            trainer.best_valid_score, trainer.best_valid_result = start_valid, result  # it competes for the best
            trainer._save_checkpoint(-1)

        def after_epoch(epoch: int, score: float) -> None:
            loss = trainer.train_loss_dict[epoch]
            self.report(
                f"{stage.name} {epoch + 1}/{trainer.epochs}: loss {loss:.4f}, {trainer.valid_metric} {score:.4f} "
                f"(best {trainer.best_valid_score:.4f}), {trainer.epoch_seconds[-1]:.1f} s"
            )
            checkpoint.save(
                self.last_file,
                trainer.training_state(epoch, loader)
                | {"stage_index": k, "start_valid": start_valid, "results": [asdict(r) for r in self.results]},
            )

        trainer.after_epoch = after_epoch
        stopped = trainer.cur_step > trainer.stopping_step  # RecBole's own rule
        untrained = trainer.epochs == 0 and start_valid is None
        if trainer.optimizer is None or untrained:  # closed form is solved when it is built
            trainer.best_valid_score, trainer.best_valid_result = trainer._valid_epoch(valid)
            trainer._save_checkpoint(-1)
        elif not stopped and trainer.start_epoch < trainer.epochs:
            trainer.fit(loader, valid, verbose=False, show_progress=show_progress)
        best = checkpoint.load(self.best_file(k), self.config["device"])
        trainer.load_weights(best)
        epochs = len(trainer.train_loss_dict)
        self.results.append(
            StageResult(
                name=stage.name,
                start_valid=start_valid,
                best_valid=float(trainer.best_valid_score),
                best_epoch=best["epoch"] + 1,
                epochs=epochs,
                valid=dict(trainer.best_valid_result),
                train_loss=[float(v) for _, v in sorted(trainer.train_loss_dict.items())],
                seconds_per_epoch=sum(trainer.epoch_seconds) / max(epochs, 1),
                eval_seconds=trainer.eval_seconds,
                trainable=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                groups=stage.groups,
                valid_curve=trainer.valid_curve,
            )
        )
        return trainer
