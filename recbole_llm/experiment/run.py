"""Run one configuration: data, stages, one read of the test split, record."""

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from recbole.utils import get_trainer, init_seed

from recbole_llm import compat
from recbole_llm.config import build_config, config_hash, resolved, restore_config
from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import CheckpointError
from recbole_llm.evaluation.slices import slice_metrics
from recbole_llm.experiment.data import (
    build_data,
    build_model,
    eval_data,
    features_hash,
    release_features,
    train_loader,
)
from recbole_llm.experiment.record import PHASED_RUN, RunResult, code_hash, commit, machine, modules_of_run, versions
from recbole_llm.registry import import_attribute
from recbole_llm.trainer import checkpoint
from recbole_llm.trainer.eval_data import EvalData
from recbole_llm.trainer.fold_in import fold_in
from recbole_llm.trainer.hooks import parameter_count
from recbole_llm.trainer.staged import StagedTraining

RESULT_FILE, CONFIG_FILE, BEST_FILE, PER_USER_FILE = "result.json", "config.yaml", "best.pt", "per_user.parquet"


def run(
    model: str,
    dataset: str,
    config_dict: dict | None = None,
    *,
    config_files: Sequence[str | Path] = (),
    cli: Sequence[str] = (),
) -> RunResult:
    """Train a model, choose by validation, read the test split once, and write the record.

    Args:
        model: a name of the registry or of RecBole.
        dataset: "ml-100k", or a folder below ``data_path``.
        config_dict: settings, over YAML files and below ``cli``.
        config_files: YAML files.
        cli: command line settings as ``--key=value``; strings are YAML.
    Returns:
        The record; it is also ``result.json`` in the run folder, beside the checkpoints and ``per_user.parquet``.
        With ``resume: true`` a finished run is returned as it is, and an unfinished one goes on.
    Raises:
        RecBoleLLMError: for whatever the user can mend.
    """
    compat.apply()
    return run_config(build_config(model, dataset, config_files, config_dict, cli))


def run_config(config) -> RunResult:
    """`run` of a configuration that is already made, by ``build_config`` or from a record by ``restore_config``."""
    folder = run_folder(config)
    config["checkpoint_dir"] = str(folder)
    finished = folder / RESULT_FILE
    if config["resume"] and finished.is_file():
        return RunResult.from_json(finished.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / CONFIG_FILE, yaml.safe_dump(resolved(config)))
    with _logging(config, folder) as say:
        return _run(config, folder, say)


def run_folder(config) -> Path:
    """``<run_dir>/<model>-<dataset>-<protocol>-s<seed>-<config hash>``: one folder a configuration."""
    name = f"{config['model']}-{config['dataset']}-{config['protocol']}-s{config['seed']}-{config_hash(config)[:8]}"
    return Path(config["run_dir"]).resolve() / name


def _run(config, folder: Path, say) -> RunResult:
    clock = _Clock()
    init_seed(config["seed"], config["reproducibility"])
    with clock("load"):
        data = build_data(config)
        valid = eval_data(config, data, "valid")
        loader = train_loader(config, data)
    if data.knowledge is not None:
        say(data.knowledge.summary)
    for feature in data.features.values():
        counted = feature.id_field in data.base.inter_feat  # entities of a graph are in no interaction
        say(feature.coverage_line(data.counts(feature.id_field) if counted else None))
        if feature.side == "user" and "split" not in feature.metadata:
            say(f"{feature.name}: its file does not say which split it was made from; 'recbole-llm audit' finds leaks")
    missing_images = config["use_clip"] and not config["clip_features"]
    if missing_images and config["visual_facets"]:
        say(f"no image features: texts that describe the pictures stand in ({', '.join(config['visual_facets'])})")
    init_seed(config["seed"], config["reproducibility"])
    with clock("build"):
        model = build_model(config, data)
        release_features(data)
    n_parameters = parameter_count(model)
    say(f"{config['model']}: {n_parameters:,} parameters; {config['dataset']}, protocol {config['protocol']}")
    training = StagedTraining(
        config,
        model,
        get_trainer(config["MODEL_TYPE"], config["model"]),
        folder,
        _identity(config, data),
        say,
    )
    if not config["resume"]:  # an earlier run of this configuration makes room only now that the new one can train
        for old in [folder / RESULT_FILE, *folder.glob("*.pt")]:
            old.unlink(missing_ok=True)
    with clock("train"):
        trainer = training.fit(loader, valid, resume=config["resume"], show_progress=config["show_progress"])
    if hasattr(model, "describe"):
        say(model.describe())
    trainer._save_checkpoint(training.results[-1].best_epoch - 1, saved_model_file=str(folder / BEST_FILE))
    if hasattr(model, "expert_usage"):
        model.expert_usage()  # drops what validations counted: the record is about the test rows and the final weights
    valid_metrics, slices = training.results[-1].valid, {}
    if config["phases"]:
        measure = import_attribute(PHASED_RUN)
        with clock("valid phases"):
            valid_metrics, _ = measure(config, data, model, "valid", say)
        with clock("test"):
            metrics, users = measure(config, data, model, "test", say)
        _write_table(folder / PER_USER_FILE, users)
    else:
        with clock("test"):
            test = eval_data(config, data, "test")
            if isinstance(test, EvalData):
                fold_in(model, test.known_dataset())
            metrics = dict(trainer.evaluate(test, load_best_model=False))
        if isinstance(test, EvalData):
            write_per_user(folder / PER_USER_FILE, data, trainer.last_results)
            first = test.tasks[0]
            lists = trainer.last_results[first.name].top_items
            slices = slice_metrics(first, lists, test.item_counts, test.metrics, test.topk)
        elif config["impressions"]:
            _write_table(folder / PER_USER_FILE, _by_unit(test.per_unit, data))
    clock.seconds["valid"] = sum(stage.eval_seconds for stage in training.results)
    # the stages know the epochs before a run was resumed, the clock does not; a trainer without epochs has the clock
    epochs = sum(stage.epochs * stage.seconds_per_epoch for stage in training.results)
    clock.seconds["train"] = epochs or clock.seconds["train"] - clock.seconds["valid"]
    result = RunResult(
        model=config["model"],
        dataset=config["dataset"],
        protocol=config["protocol"],
        seed=config["seed"],
        config=resolved(config),
        config_hash=config_hash(config),
        code_hash=code_hash(*modules_of_run(config)),
        commit=commit(),
        versions=versions(),
        machine=machine(str(config["device"])),
        split=data.split.fingerprint,
        features={
            name: {"rows": int(f.present.sum()), "coverage": f.coverage, "fingerprint": f.fingerprint}
            for name, f in data.features.items()
        },
        valid=valid_metrics,
        test=metrics,
        test_reads=1,
        stages=[vars(stage) for stage in training.results],
        seconds=clock.seconds,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        n_parameters=n_parameters,
        experts=model.expert_usage() if hasattr(model, "expert_usage") else {},
        slices=slices,
        run_folder=os.path.relpath(folder),
    )
    _write(folder / RESULT_FILE, result.to_json())
    return result


def _identity(config, data) -> dict[str, object]:
    return {
        "model": config["model"],
        "split": data.split.fingerprint,
        "feature table": features_hash(data.features),
    }


def write_per_user(path: Path, data, results) -> None:
    """One row a test user: token and every per-user metric, those of secondary tasks prefixed."""
    columns: dict[str, np.ndarray] = {}
    for k, (name, result) in enumerate(results.items()):
        if k == 0:
            columns["user"] = data.base.field2id_token[data.base.uid_field][result.user_ids]
        prefix = "" if k == 0 else f"{name}/"
        columns |= {prefix + metric: values for metric, values in result.per_user.items()}
    _write_table(path, columns)


def _by_unit(columns: dict[str, np.ndarray], data) -> dict[str, np.ndarray]:
    """Metrics of impressions, or of users, by token; the column is ``user`` in both, one observation a row."""
    if "impression" in columns:
        tokens = np.unique(data.shown.impressions)[columns["impression"]]
        return {"user": tokens} | {name: values for name, values in columns.items() if name != "impression"}
    return columns | {"user": data.base.field2id_token[data.base.uid_field][columns["user"]]}


def _write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    import pandas as pd

    with atomic_writer(path) as file:
        pd.DataFrame(columns).to_parquet(file, index=False)


def _write(path: Path, text: str) -> None:
    with atomic_writer(path) as file:
        file.write(text.encode())


def load(folder: str | Path):
    """The trained model of a run folder, ready to score, and its data.

    Returns:
        model (in eval mode, best weights), RecData (``data.train`` is the RecBole dataset it was built on).
    Raises:
        CheckpointError: if the folder holds no finished training, or its split or features have changed since.
    """
    compat.apply()
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} is not a run folder: it has no {CONFIG_FILE}; name a folder below run_dir")
    settings = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config = restore_config(settings)
    state = checkpoint.load(folder / BEST_FILE, config["device"])
    config["checkpoint_dir"] = str(folder)
    data = build_data(config)
    model = build_model(config, data)
    if state["identity"] != _identity(config, data):
        raise CheckpointError(f"the split or the features of {folder} have changed since it was trained; train again")
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state["other_parameter"])
    if hasattr(model, "set_stage"):
        model.set_stage(state["stage"])
    return model.eval(), data


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str):
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start


@contextmanager
def _logging(config, folder: Path):
    """A function that says a line on stderr and in ``log.txt``; RecBole's own log goes to the file alone."""
    logger = logging.getLogger("recbole_llm.run")
    root = logging.getLogger()
    level = getattr(logging, str(config["state"] or "INFO").upper(), logging.INFO)
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    before = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))

    def say(line: str) -> None:
        logger.info(line)
        if level <= logging.INFO:
            print(line, file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def load_results(path: str | Path) -> list[RunResult]:
    """Records of a JSON-lines file, or of every run folder below a folder."""
    path = Path(path)
    if path.is_dir():
        return [RunResult.from_json(f.read_text(encoding="utf-8")) for f in sorted(path.glob(f"*/{RESULT_FILE}"))]
    return [RunResult(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]
