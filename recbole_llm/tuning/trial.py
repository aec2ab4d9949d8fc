"""One trial: a configuration trained on validation alone, which reports after every validation and can be taken up."""

import functools
import itertools
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from recbole.utils import get_trainer, init_seed

from recbole_llm.errors import RecBoleLLMError
from recbole_llm.experiment.data import build_model, eval_data, release_features, train_loader
from recbole_llm.trainer.staged import StagedTraining
from recbole_llm.tuning.ledger import FINISHED, RUNNING, Trial, write_trial

LAST = "last.pt"  # of StagedTraining: all that the next epoch depends on
Report = Callable[[Trial], None]


class TrialTraining(StagedTraining):
    """Staged training that tells of every validation, once its epoch is kept.

    Args:
        tell: called with (stage, its curve so far, its best score), the curve as in ``StageResult.valid_curve``.
        new_rates: whether learning rates are those of the config even where a checkpoint has others, as after
            population based training has changed them.
    """

    def __init__(self, *args, tell: Callable[[int, list[list[float]], float], None], new_rates: bool = False) -> None:
        super().__init__(*args)
        self._tell, self._new_rates = tell, new_rates

    def _trainer(self, k: int):
        trainer = super()._trainer(k)

        def after(epoch: int, score: float) -> None:
            self._tell(k, trainer.valid_curve, float(trainer.best_valid_score))

        # RecBole's own callback of fit(); it comes after `last.pt` is written
        trainer.fit = functools.partial(trainer.fit, callback_fn=after)
        if self._new_rates:
            trainer.load_training_state = functools.partial(self._load_but_rates, trainer, k)
        return trainer

    def _load_but_rates(self, trainer, k: int, state, loader) -> None:
        type(trainer).load_training_state(trainer, state, loader)
        for group, rate in zip(trainer.optimizer.param_groups, self.stages[k].groups.values(), strict=True):
            group["lr"] = group["initial_lr"] = rate
            group["weight_decay"] = trainer.weight_decay


def first_stages(config, data, folder: Path, n: int) -> None:
    """Train the first stages alone, for trials to start from; finished ones are not trained again.

    Args:
        folder: gets ``last.pt`` and the best checkpoints, as a run that was broken off then leaves them.
    """
    training, loader, valid = _prepared(config, data, folder, lambda *told: None)
    n_all, training.stages = len(training.stages), training.stages[:n]
    if n >= n_all:
        raise RecBoleLLMError(f"shared_stages: {n} leaves none of the {n_all} stages to search; lower it")
    training.fit(loader, valid, resume=True, show_progress=False)


def run_trial(
    trial: Trial,
    config,
    data,
    folder: Path,
    report: Report,
    *,
    n_first: int = 0,
    start: Path | None = None,
    new_rates: bool = False,
) -> Trial:
    """Train a configuration, from where its folder has got to.

    Args:
        trial: what is known of it. data: sealed: it holds no test row.
        folder: of the trial; holds its checkpoints as long as it is not finished, and its record.
        report: receives the trial after every validation; it may end the trial by raising.
        n_first: first stages, in which trials are not compared. start: a folder of :func:`first_stages`.
        new_rates: see :class:`TrialTraining`.
    Returns:
        The finished trial.
    """
    folder.mkdir(parents=True, exist_ok=True)
    broken_off = (folder / LAST).is_file()
    if start is not None and not broken_off:
        _copy(start, folder)
    clock, before = time.perf_counter(), trial.seconds
    waited = 0.0  # for the search to take a report
    earlier = trial.resumed
    sign = 1.0 if config["valid_metric_bigger"] else -1.0

    def past(stages: list[tuple[int, list[list[float]]]]) -> dict[str, list]:
        """What the checkpoint knows, whether or not the record was written before a process died."""
        own = n_first if start is not None else 0  # stages before are no trial's own
        resumed = earlier + [training.resumed_after] * broken_off
        return {"history": _history(stages, own), "resumed": resumed}

    def tell(stage: int, curve: list[list[float]], best: float) -> None:
        nonlocal trial, waited
        ended, epochs = training.results, curve[-1][0]
        compared = sum(r.epochs for r in ended[n_first:]) + epochs if stage >= n_first else 0
        trial = trial.now(
            status=RUNNING,
            score=best,
            order=sign * best,
            epochs=sum(r.epochs for r in ended) + epochs,
            compared_epochs=compared,
            **past([*((r.epochs, r.valid_curve) for r in ended), (epochs, curve)]),
            seconds=before + time.perf_counter() - clock - waited,
        )
        told = time.perf_counter()
        write_trial(folder, trial)
        report(trial)
        waited += time.perf_counter() - told

    training, loader, valid = _prepared(config, data, folder, tell, new_rates)
    training.fit(loader, valid, resume=True, show_progress=False)
    best, epochs = training.results[-1].best_valid, sum(r.epochs for r in training.results)
    if not math.isfinite(best):
        raise RecBoleLLMError(f"the score is {best}")
    done = past([(r.epochs, r.valid_curve) for r in training.results])
    done["history"] = done["history"] or [[epochs, best]]  # a closed-form model has no epoch, and validates once
    trial = trial.now(
        status=FINISHED,
        score=best,
        order=sign * best,
        epochs=epochs,
        compared_epochs=sum(r.epochs for r in training.results[n_first:]),
        valid=dict(training.results[-1].valid),
        **done,
        seconds=before + time.perf_counter() - clock - waited,
    )
    return write_trial(folder, trial)


def _history(stages: list[tuple[int, list[list[float]]]], first: int) -> list[list[float]]:
    """[epochs trained in all, validation score] in the stages from ``first`` on, given the epochs and curve of each."""
    starts = itertools.accumulate((epochs for epochs, _ in stages), initial=0)
    own = itertools.islice(zip(starts, stages, strict=False), first, None)
    return [[start + epoch, score] for start, (_, curve) in own for epoch, score in curve]


def _copy(start: Path, folder: Path) -> None:
    """Checkpoints of the first stages; the one that says where to go on comes last, and whole."""
    for path in start.glob("best-*.pt"):
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(start / LAST, folder / f"{LAST}.copy")
    (folder / f"{LAST}.copy").replace(folder / LAST)


def _prepared(config, data, folder: Path, tell, new_rates: bool = False):
    """Training, loader and validation data, made as a run makes them, so that a trial trains as the run would."""
    init_seed(config["seed"], config["reproducibility"])
    valid, loader = eval_data(config, data, "valid"), train_loader(config, data)
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(config, data)
    release_features(data)
    folder.mkdir(parents=True, exist_ok=True)
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    identity = {"model": config["model"], "split": data.split.fingerprint}
    training = TrialTraining(config, model, base, folder, identity, lambda line: None, tell=tell, new_rates=new_rates)
    return training, loader, valid
