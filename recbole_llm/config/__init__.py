"""The only place that builds RecBole's Config: merge order, unknown keys, dataset folder, device.

Merge order, last wins: RecBole overall < plugin overall < dataset YAML < model YAML < protocol YAML < files <
``config_dict`` < command line. Nothing here reads ``sys.argv``, evaluates strings as Python or downloads data.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from recbole_llm import compat
from recbole_llm.config.record import config_hash, resolved
from recbole_llm.config.sources import model_and_dataset, parse_command_line

if TYPE_CHECKING:
    from recbole_llm.config.build import PluginConfig

__all__ = ["build_config", "config_hash", "model_and_dataset", "parse_command_line", "resolved", "restore_config"]


def build_config(
    model: str | type | None,
    dataset: str | None,
    config_files: Sequence[str | PathLike[str]] = (),
    config_dict: Mapping[str, Any] | None = None,
    cli: Sequence[str] = (),
) -> "PluginConfig":
    """Merge every source of settings into one object that RecBole takes as its Config.

    Args:
        model: name of a model of this project or of RecBole, or a class; None takes ``model`` from the rest.
        dataset: name of the dataset; None takes ``dataset`` from the rest.
        config_files: YAML files, the last wins; a bare name is also looked up in properties/ and properties/model/.
        config_dict: settings; never changed, strings in it are taken as they are.
        cli: arguments such as ``--epochs=3``, ``--eval_args.mode=full`` or ``--resume``; values are YAML.

    Returns:
        A ``recbole.config.Config``; its ``key_sources`` tells for each setting (nested ones dotted) which layer set it.

    Raises:
        ConfigError: for an unknown key, model or protocol, a wrong value, a file that is missing or no valid YAML.
        DataError: if the dataset's files or the columns to load from them do not exist.
        MissingDependencyError: if RecBole, or a package that the model needs, is not installed.
    """
    compat.apply()  # first: it tells in one sentence that RecBole is missing, which the import below needs
    from recbole_llm.config.build import build

    return build(model, dataset, config_files, config_dict, cli)


def restore_config(settings: Mapping[str, Any]) -> "PluginConfig":
    """The configuration that a run record holds, as it was: no YAML file is merged in, the device is chosen anew.

    Args:
        settings: what `resolved` gave; never changed.

    Raises:
        ConfigError: if RecBole refuses the settings.
        DataError: if the dataset's files are no longer there.
        MissingDependencyError: if RecBole, or a package that the model needs, is not installed.
    """
    compat.apply()
    from recbole_llm.config.build import restore

    return restore(settings)
