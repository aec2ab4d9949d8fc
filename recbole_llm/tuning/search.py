"""A search on Ray Tune: starts it or takes it up, and hands back what became of its trials."""

import logging
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from recbole_llm.errors import ConfigError, MissingDependencyError, TrainingError
from recbole_llm.tuning import worker
from recbole_llm.tuning.ledger import (
    ENDED,
    LIST_FILE,
    STOPPED,
    Trial,
    ranked,
    read_list,
    read_trials,
    trial_folder,
    write_list,
    write_trial,
)
from recbole_llm.tuning.space import default_point, grid
from recbole_llm.tuning.sweep import Sweep
from recbole_llm.tuning.worker import COMPARED, ORDER, POINT, Task

RAY_FOLDER = "ray"
RETRIES = 3  # of a trial whose process or node died
_GRACE = 9  # trials run at least this part of their epochs before they are compared
# read by Ray when it is imported or started: the search's state is saved every second, nothing goes to the network,
# an interrupt ends the command, and trials stay in the folder they were started in
_ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports none
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Resources:
    """What a trial is given, and where.

    Attributes:
        cpus: cores a trial. gpus: GPUs a trial, parts as well.
        address: of a Ray cluster to join, "auto" for the one that runs here; None: Ray on this machine, for this alone.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.cpus <= 0 or self.gpus < 0:
            raise ConfigError(
                f"a trial needs cores above 0 and GPUs of at least 0, not {self.cpus:g} and {self.gpus:g}"
            )


def require() -> None:
    """Raises: MissingDependencyError without Ray Tune or Optuna."""
    try:
        import optuna  # noqa: F401
        import ray.tune  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"tune needs the package '{error.name}', which is not installed; run: pip install 'recbole-llm[tune]'"
        ) from None


def connect(resources: Resources) -> int:
    """Start Ray, or join a cluster. Returns: how many trials run at a time.

    Raises:
        ConfigError: for a cluster that is not there, or none of whose nodes has as much as a trial needs.
    """
    os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})
    require()
    import optuna
    import ray

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in ("ray.tune", "ray.train"):  # tells of the files that its own loggers, which are off, did not write
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        where = resources.address or "local"
        quiet = {"log_to_driver": False, "configure_logging": False, "ignore_reinit_error": True}
        quiet |= {"include_dashboard": False} if where == "local" else {}
        try:
            ray.init(address=where, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"no Ray cluster at {where} ({reason}); start one with 'ray start --head', or leave out --address"
            ) from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    at_once = sum(_fits(node, resources) for node in nodes)
    if not at_once:
        raise ConfigError(
            f"no node has {resources.cpus:g} cores and {resources.gpus:g} GPUs; ask for fewer with --cpus-per-trial "
            "and --gpus-per-trial"
        )
    return at_once


def _fits(node: dict, resources: Resources) -> int:
    fits = int(node.get("CPU", 0) / resources.cpus)
    return min(fits, int(node.get("GPU", 0) / resources.gpus + 1e-9)) if resources.gpus else fits


def search(sweep: Sweep, out: Path, resources: Resources, *, resume: bool, say: Say = print) -> list[Trial]:
    """Run a search, or take it up where it was broken off.

    Args:
        out: folder of the search; on a cluster, one that every node sees under this name.
        resume: whether the folder holds this search, see :func:`recbole_llm.tuning.state.take`.
        say: receives a line a trial.
    Returns:
        All trials that have begun, by start; those that the scheduler or the time ended are "stopped".
    Raises:
        TrainingError: when no trial gave a score, with what the first one failed of.
        RecBoleLLMError: for settings or data that cannot be meant.
    """
    out = out.resolve()
    if resume and (out / LIST_FILE).is_file():
        return read_list(out)
    connect(resources)
    import ray
    from ray import tune

    from recbole_llm.tuning.shared import SharedData

    task = Task(sweep, out, {"run_dir": str(out / "runs")}, resources.cpus, resources.gpus)
    config = replace(task, gpus=0.0).config({})
    places = {"data_path": str(Path(config["data_path"]).resolve().parent)}
    task = replace(task, settings=task.settings | places)
    shared = ray.put(SharedData.prepare(config))
    start = default_point(sweep.space, config)
    task = replace(task, default=start)
    if sweep.shared_stages and set(sweep.space) <= set(sweep.later_settings):
        say(f"first stages, which all trials share: {sweep.shared_stages}")
        _first_stages(task, shared, start or {}, resources)
        task = replace(task, start=out / worker.FIRST_FOLDER)
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, task=task, shared=[shared]), {"cpu": resources.cpus, "gpu": resources.gpus}
    )
    path = str(out / RAY_FOLDER)
    if resume and tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, trainable=trainable)
    else:
        tuner = _tuner(sweep, out, trainable, config, start, say)
    results = tuner.fit()
    ids = [Path(result.path).name for result in results if result.path]
    for trial in read_trials(out, ids):
        if trial.status not in ENDED:
            write_trial(trial_folder(out, trial.id), trial.now(status=STOPPED))
    trials = read_trials(out, ids)
    if not ranked(trials):
        reason = next((trial.error for trial in trials if trial.error), "the time was over before the first validation")
        raise TrainingError(f"none of the {len(trials)} trials gave a result; the first: {reason}")
    write_list(out, trials)
    return trials


def _trainable(config: dict, task: Task, shared: list) -> None:
    import ray

    worker.train(config, task, ray.get(shared[0]))


def _first_stages(task: Task, shared, point: dict, resources: Resources) -> None:
    import ray

    run = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=RETRIES)(worker.train_first_stages)
    try:
        ray.get(run.remote(task, shared, point))
    except ray.exceptions.RayTaskError as error:
        raise TrainingError(f"the first stages cannot be trained: {' '.join(str(error.cause).split())[:300]}") from None


def _tuner(sweep: Sweep, out: Path, trainable, config, start: dict | None, say: Say):
    """A new search."""
    from ray import tune

    from recbole_llm.tuning.progress import Progress

    space = {key: domain.ray() for key, domain in sweep.space.items()}
    if sweep.search == "grid":
        space = {POINT: tune.grid_search(grid(sweep.space))}
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=ORDER,
            mode="max",
            search_alg=_algorithm(sweep, start),
            scheduler=_scheduler(sweep, config),
            num_samples=1 if sweep.search == "grid" else sweep.trials,
            time_budget_s=sweep.time,
            reuse_actors=True,  # a trial need not import torch again
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            name=RAY_FOLDER,
            storage_path=str(out),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Progress(out, sweep.n_trials, config["valid_metric"], say)],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=4 if sweep.search == "pbt" else None),
            verbose=0,
        ),
    )


def _trial_id(trial) -> str:
    return trial.trial_id


def _algorithm(sweep: Sweep, start: dict | None):
    """Optuna's TPE, or random points; both begin with the default configuration where the space has it."""
    first = [start] if start is not None and sweep.search != "grid" else None
    if sweep.search == "tpe":
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(metric=ORDER, mode="max", seed=sweep.first_seed, points_to_evaluate=first)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(points_to_evaluate=first, random_state=sweep.first_seed)


def most_epochs(sweep: Sweep, config) -> int:
    """Epochs of the stages in which trials are compared, at most.

    Raises:
        ConfigError: when shared_stages leaves none.
    """
    from recbole_llm.trainer.staged import stages_of

    stages = stages_of(config)
    if sweep.shared_stages >= len(stages):
        raise ConfigError(
            f"shared_stages: {sweep.shared_stages} leaves none of the {len(stages)} stages of {sweep.model} in which "
            "trials could be compared; lower it"
        )
    return sum(stage.epochs for stage in stages[sweep.shared_stages :])


def _scheduler(sweep: Sweep, config):
    """Asynchronous successive halving, population based training, or none."""
    from ray.tune import schedulers

    most = most_epochs(sweep, config)
    grace = sweep.grace_epochs or max(1, math.ceil(most / _GRACE))
    if sweep.search == "pbt":
        random.seed(sweep.first_seed)  # Ray's perturbations draw from the global generator
        return schedulers.PopulationBasedTraining(
            time_attr=COMPARED,
            perturbation_interval=grace,
            hyperparam_mutations={key: domain.ray() for key, domain in sweep.space.items()},
        )
    if sweep.scheduler == "asha" and grace < most:
        return schedulers.ASHAScheduler(
            time_attr=COMPARED,
            max_t=most,
            grace_period=grace,
            reduction_factor=sweep.reduction_factor,
            stop_last_trials=False,  # a trial ends its last epoch by itself, and says so
        )
    return schedulers.FIFOScheduler()
