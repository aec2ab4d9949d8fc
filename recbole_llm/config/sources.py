"""Reads settings from YAML files and the command line by the same rules. Imports neither torch nor RecBole."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from recbole_llm.errors import ConfigError
from recbole_llm.paths import properties_dir

# options that mean true without a value even when a word follows them
FLAGS = ("resume",)


class SettingsLoader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number, dates stay text and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.split(":")[-1] not in ("timestamp", "float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$
        |[-+]?\.(?:inf|Inf|INF)$
        |\.(?:nan|NaN|NAN)$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text.

    Args:
        text: the YAML document.
        where: what the error message calls its origin.

    Raises:
        ConfigError: if the text is no valid YAML.
    """
    try:
        return yaml.load(text, Loader=SettingsLoader)
    except (yaml.YAMLError, ValueError) as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML ({problem}); mind indentation, colons and quotes") from None


def load_yaml(path: str | PathLike[str], where: str | None = None) -> dict[str, Any]:
    """Settings of a YAML file; an empty file gives none.

    Raises:
        ConfigError: if the file cannot be read, is no valid YAML or holds something other than ``key: value`` lines.
    """
    where = where or str(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{where} is not a UTF-8 text file; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot read {where}: {error.strerror or error}; check the path") from None
    settings = parse_yaml(text, where)
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"{where} must hold 'key: value' lines with words as keys")
    return settings


def find_config_file(name: str | PathLike[str]) -> Path:
    """A configuration file by its path, or by its name inside properties/ or properties/model/.

    Raises:
        ConfigError: if there is no such file.
    """
    places = [Path(name), properties_dir() / name, properties_dir() / "model" / name]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"config file '{name}' does not exist, neither here nor in {properties_dir()}; check the path")


def split_arguments(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """Options ``--key=value``, ``--key value`` and ``--key`` as pairs; None stands for no value.

    Raises:
        ConfigError: for an argument that belongs to no option.
    """
    pairs: list[tuple[str, str | None]] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not re.match(r"--[A-Za-z_]", argument):
            raise ConfigError(f"stray argument '{argument}': settings are given as --key=value")
        key, equals, value = argument[2:].partition("=")
        if equals:
            pairs.append((key, value))
        elif rest and not rest[0].startswith("--") and (key not in FLAGS or rest[0].lower() in ("true", "false")):
            pairs.append((key, rest.pop(0)))
        else:
            pairs.append((key, None))
    return pairs


def parse_command_line(arguments: Sequence[str]) -> dict[str, Any]:
    """Settings of the command line; values are YAML, ``None`` is null, ``--a.b=1`` sets key b inside a.

    Raises:
        ConfigError: for a stray argument, a value that is no YAML, or a key given twice with different values.
    """
    settings: dict[str, Any] = {}
    given: dict[str, str | None] = {}
    for key, text in split_arguments(arguments):
        if key in given and given[key] != text:
            raise ConfigError(f"--{key} is given twice, as '{given[key]}' and '{text}'; keep one")
        given[key] = text
        value = True if text is None else None if text == "None" else parse_yaml(text, f"--{key}={text}")
        target = settings
        *outer, last = key.split(".")
        for part in outer:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--{key} sets a part of '{part}', which another option sets as a whole; keep one")
        target[last] = value
    return settings


def lift_extra(settings: Mapping[str, Any], where: str) -> tuple[dict[str, Any], set[str]]:
    """Lift the content of the ``extra:`` block to the top level.

    Returns:
        The settings without the block, and the names that it declares known.

    Raises:
        ConfigError: if the block is no mapping.
    """
    lifted = {key: value for key, value in settings.items() if key != "extra"}
    extra = settings.get("extra") or {}
    if not isinstance(extra, Mapping):
        raise ConfigError(f"extra must be a block of 'key: value' lines, got {extra!r} ({where})")
    return {**lifted, **extra}, set(extra)


def user_layers(
    config_files: Sequence[str | PathLike[str]], config_dict: Mapping[str, Any] | None, cli: Sequence[str]
) -> tuple[list[tuple[str, dict[str, Any]]], set[str]]:
    """The user's settings as named layers in the order of merging, and the keys that their ``extra:`` blocks declare.

    Raises:
        ConfigError: for a file or an argument that cannot be read.
    """
    raw = [(str(file), load_yaml(find_config_file(file), where=str(file))) for file in config_files]
    raw += [("config_dict", dict(config_dict or {})), ("command line", parse_command_line(cli))]
    layers, allowed = [], set()
    for where, settings in raw:
        lifted, extra = lift_extra(settings, where)
        layers.append((where, lifted))
        allowed |= extra
    return layers, allowed


def model_and_dataset(
    model: Any,
    dataset: str | None,
    config_files: Sequence[str | PathLike[str]] = (),
    config_dict: Mapping[str, Any] | None = None,
    cli: Sequence[str] = (),
) -> tuple[Any, str]:
    """Model and dataset, looked up in the files, config_dict and command line (the last wins) where not given.

    Raises:
        ConfigError: if one of them is named nowhere.
    """
    named: dict[str, Any] = {}
    for _, settings in user_layers(config_files, config_dict, cli)[0]:
        named |= settings
    model, dataset = model or named.get("model"), dataset or named.get("dataset")
    if not model:
        raise ConfigError("no model given: add --model=UR4RecMoE; --list shows the models")
    if not dataset:
        raise ConfigError("no dataset given: add --dataset=ml-100k; --list shows the datasets")
    return model, str(dataset)
