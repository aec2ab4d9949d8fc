"""Builds the Config object: collects the layers, merges and checks them, lets RecBole derive the rest."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.evaluator import metric_types

from recbole_llm.config import checks, locate
from recbole_llm.config.merge import Layer, merge, without_removed
from recbole_llm.config.needs import check_runnable, required_settings
from recbole_llm.config.sources import (
    SettingsLoader,
    lift_extra,
    load_yaml,
    model_and_dataset,
    user_layers,
)
from recbole_llm.errors import ConfigError
from recbole_llm.paths import properties_dir
from recbole_llm.registry import did_you_mean, resolve_model


class PluginConfig(Config):
    """RecBole's Config filled from merged settings.

    Keeps RecBole's rules that derive settings (input type, evaluation type, sampling) and replaces how settings are
    found and how the device is chosen. ``config[key]`` of an unknown key is None, as in RecBole.

    Attributes:
        final_config_dict: the settings.
        key_sources: setting (nested ones dotted) -> name of the layer that set it.
    """

    def __init__(self, model_class: type, settings: dict[str, Any], key_sources: dict[str, str]) -> None:
        self.compatibility_settings()
        self._init_parameters_category()
        self.parameters = {category: list(keys) for category, keys in self.parameters.items()}  # RecBole's are global
        self.yaml_loader = SettingsLoader
        self.model, self.model_class, self.dataset = settings["model"], model_class, settings["dataset"]
        self.key_sources = key_sources
        self.final_config_dict = settings
        folder, metrics = settings["data_path"], settings["metrics"]
        if settings.get("evaluator") != "recbole":  # ours ranks for AUC too; RecBole allows it beside labels alone
            settings["metrics"] = [m for m in metrics if str(m).lower() != "auc"] or ["GAUC"]
        try:
            self._set_default_parameters()
            self._set_train_neg_sample_args()
            self._set_eval_neg_sample_args("valid")
            self._set_eval_neg_sample_args("test")
        except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
            raise ConfigError(f"RecBole refuses these settings: {' '.join(str(error).split())}") from error
        self.final_config_dict |= {"data_path": folder, "metrics": metrics}
        self._init_device()

    def _init_device(self) -> None:
        """Choose the device without touching CUDA_VISIBLE_DEVICES, which Ray and launchers set for their processes."""
        settings = self.final_config_dict
        gpu_id = settings.get("gpu_id")
        given = gpu_id if isinstance(gpu_id, (list, tuple)) else "" if gpu_id is None else str(gpu_id).split(",")
        gpus = [str(gpu).strip() for gpu in given if str(gpu).strip()]
        settings["gpu_id"] = ",".join(gpus)
        settings["single_spec"], settings["local_rank"] = True, 0
        if not settings.get("use_gpu", True) or not gpus or not torch.cuda.is_available():
            settings["device"] = torch.device("cpu")
            return
        if not gpus[0].isdigit() or int(gpus[0]) >= torch.cuda.device_count():
            raise ConfigError(
                f"gpu_id '{gpus[0]}' is not one of the {torch.cuda.device_count()} visible GPUs, which count from 0"
            )
        settings["device"] = torch.device("cuda", int(gpus[0]))


def build(
    model: str | type | None,
    dataset: str | None,
    config_files: Sequence[str | PathLike[str]],
    config_dict: Mapping[str, Any] | None,
    cli: Sequence[str],
) -> PluginConfig:
    """See `recbole_llm.config.build_config`."""
    user, allowed = user_layers(config_files, config_dict, cli)
    model, dataset = model_and_dataset(model, dataset, config_files, config_dict, cli)
    model_class = resolve_model(model) if isinstance(model, str) else model
    name = model_class.__name__
    checks.check_keys(user, allowed)

    base = _base_layers()
    found = merge([*base, *user])[0]
    folder = locate.locate_dataset(dataset, found["data_path"], found["benchmark_filename"])
    of_dataset = _dataset_layers(dataset, folder, found)
    base += of_dataset
    built_in, own = _model_layers(name)
    provisional = merge([*base, *built_in, *own, *user])[0]
    required = required_settings(model_class, dataset, provisional)
    if any("protocol" in settings for _, settings in of_dataset):  # labels ask for theirs, whatever the model
        required.pop("protocol")
    needs: list[Layer] = [(f"needs of {name}", required)]
    defaults = [*base, *built_in, *needs, *own]
    defaults.append(_protocol_layer(merge([*defaults, *user])[0]["protocol"]))

    settings, sources = merge([*defaults, *user])
    settings = without_removed(settings)
    identity = {"model": name, "dataset": dataset, "data_path": str(folder), "MODEL_TYPE": model_class.type}
    settings |= identity
    sources |= dict.fromkeys(identity, "model and dataset")
    if not settings.get("checkpoint_dir"):
        settings["checkpoint_dir"] = str(Path(settings["run_dir"]) / "checkpoints")
    for key in ("metrics", "topk", "choice_metric"):
        if key in settings:
            settings[key] = settings[key] if isinstance(settings[key], list) else [settings[key]]
    settings.pop("config_files", None)
    checks.check_values(settings, {**merge(defaults)[0], "data_path": ""}, sources)
    checks.check_metrics(settings, metric_types)
    locate.check_columns(folder, dataset, settings)
    check_runnable(model_class, settings)
    logging.getLogger(__name__).debug("settings of %s on %s come from %s", name, dataset, sorted(set(sources.values())))
    return PluginConfig(model_class, settings, sources)


# derived when a configuration is built, and again when it is restored
_DERIVED = (
    *("MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "valid_metric_bigger", "valid_neg_sample_args"),
    *("test_neg_sample_args", "device", "single_spec", "local_rank"),
)


def restore(record: Mapping[str, Any]) -> PluginConfig:
    """See `recbole_llm.config.restore_config`."""
    settings = {key: deepcopy(value) for key, value in record.items() if key not in _DERIVED}
    model_class = resolve_model(settings["model"])
    negatives = settings.get("train_neg_sample_args")
    if negatives and negatives.get("distribution") == "none":
        settings["train_neg_sample_args"] = None  # RecBole spells it out, and refuses its own spelling
    data_path = Path(settings["data_path"]).parent
    folder = locate.locate_dataset(settings["dataset"], data_path, settings.get("benchmark_filename"))
    locate.check_columns(folder, settings["dataset"], settings)
    settings |= {"data_path": str(folder), "MODEL_TYPE": model_class.type}
    return PluginConfig(model_class, settings, dict.fromkeys(settings, "record"))


@lru_cache(maxsize=512)
def _shipped_yaml(file: Path, mtime_ns: int) -> dict[str, Any]:
    """Content of a YAML file that comes with a package; parsing is most of the time that a configuration takes."""
    return lift_extra(load_yaml(file), str(file))[0]


def _yaml_layer(label: str, file: Path) -> list[Layer]:
    return [(label, _shipped_yaml(file, file.stat().st_mtime_ns))] if file.is_file() else []


def _base_layers() -> list[Layer]:
    recbole, own = locate.recbole_dir() / "properties", properties_dir()
    return [
        *_yaml_layer("RecBole overall", recbole / "overall.yaml"),
        *_yaml_layer("RecBole overall", recbole / "dataset" / "sample.yaml"),
        *_yaml_layer("plugin overall", own / "overall.yaml"),
    ]


def _dataset_layers(dataset: str, folder: Path, settings: Mapping[str, Any]) -> list[Layer]:
    """RecBole's and the plugin's dataset YAML; without either, the columns that the interaction file has."""
    layers = [
        *_yaml_layer("RecBole dataset", locate.recbole_dir() / "properties" / "dataset" / f"{dataset}.yaml"),
        *_yaml_layer("plugin dataset", properties_dir() / "dataset" / f"{dataset}.yaml"),
    ]
    header: Layer = ("header of .inter", {"load_col": {"inter": locate.header_load_col(folder, dataset, settings)}})
    return layers or [header]


def _model_layers(name: str) -> tuple[list[Layer], list[Layer]]:
    """RecBole's model YAML and the plugin's."""
    folder = locate.recbole_dir() / "properties" / "model"
    # RecBole ships lightgbm.yaml for its class LightGBM
    file = next((file for file in folder.glob("*.yaml") if file.stem.lower() == name.lower()), folder / f"{name}.yaml")
    recbole = _yaml_layer("RecBole model", file)
    return recbole, _yaml_layer("plugin model", properties_dir() / "model" / f"{name}.yaml")


def _protocol_layer(protocol: Any) -> Layer:
    """Settings of a protocol.

    Raises:
        ConfigError: if properties/protocol/ has no such file; the message lists those it has.
    """
    names = sorted(file.stem for file in (properties_dir() / "protocol").glob("*.yaml"))
    if protocol not in names:
        hint = did_you_mean(str(protocol), names)
        raise ConfigError(f"unknown protocol '{protocol}'{hint} (protocols: {', '.join(names)})")
    return _yaml_layer(f"protocol {protocol}", properties_dir() / "protocol" / f"{protocol}.yaml")[0]
