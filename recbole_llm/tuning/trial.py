"""One trial: a configuration trained on validation alone, which reports after every validation and can be taken up."""

import functools
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
        tell: called with (stage, epochs of it so far, score of the epoch, best score of the stage).
        new_rates: whether learning rates are those of the config even where a checkpoint has others, as after
            population based training has changed them.
    """

    def __init__(self, *args, tell: Callable[[int, int, float, float], None], new_rates: bool = False) -> None:
        super().__init__(*args)
        self._tell, self._new_rates = tell, new_rates

    def _trainer(self, k: int):
        trainer = super()._trainer(k)

        def after(epoch: int, score: float) -> None:
            self._tell(k, epoch + 1, float(score), float(trainer.best_valid_score))

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
    if start is not None and not (folder / LAST).is_file():
        _copy(start, folder)
    clock, before = time.perf_counter(), trial.seconds
    waited = 0.0  # for the search to take a report
    broken_off, known = trial.epochs > 0, trial.resumed
    sign = 1.0 if config["valid_metric_bigger"] else -1.0

    def tell(stage: int, epochs: int, value: float, best: float) -> None:
        nonlocal trial, waited
        earlier = training.results
        total = sum(r.epochs for r in earlier) + epochs
        compared = sum(r.epochs for r in earlier[n_first:]) + epochs if stage >= n_first else 0
        history = [point for point in trial.history if point[0] < total] + [[total, value]]
        resumed = trial.resumed + [total - 1] * (broken_off and trial.resumed == known)
        trial = trial.now(
            status=RUNNING,
            score=best,
            order=sign * best,
            epochs=total,
            compared_epochs=compared,
            history=history,
            resumed=resumed,
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
    # a closed-form model validates once, and no callback tells of it
    history = trial.history or [[epochs, best]]
    trial = trial.now(
        status=FINISHED,
        score=best,
        order=sign * best,
        epochs=epochs,
        compared_epochs=sum(r.epochs for r in training.results[n_first:]),
        valid=dict(training.results[-1].valid),
        history=history,
        seconds=before + time.perf_counter() - clock - waited,
    )
    return write_trial(folder, trial)


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
