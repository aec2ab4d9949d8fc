"""``recbole-llm train``: one configuration, trained and evaluated, by RecBole's command line."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from recbole_llm.config.checks import check_keys
from recbole_llm.config.sources import model_and_dataset, split_arguments, user_layers
from recbole_llm.errors import ConfigError
from recbole_llm.registry import check_model_name

_SHORT = {"-m": "--model", "-d": "--dataset", "-h": "--help"}


@dataclass
class Request:
    """What the command line asks for.

    Attributes:
        model: name, or None where a config file names it.
        dataset: name, or None where a config file names it.
        config_files: YAML files in the order of merging.
        settings: the other options as ``--key=value``.
        json: whether the result goes to stdout as one line of JSON.
        help: whether only the help is wanted.
        list: whether only the names of models, datasets and protocols are wanted.
    """

    model: str | None = None
    dataset: str | None = None
    config_files: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    json: bool = False
    help: bool = False
    list: bool = False


def parse(argv: Sequence[str]) -> Request:
    """Read RecBole-style arguments.

    Raises:
        ConfigError: for a stray argument, or an option that lacks its value.
    """
    request = Request()
    switches = {"--json": "json", "--help": "help", "--list": "list"}
    rest = []
    for argument in argv:
        head, equals, value = argument.partition("=")
        argument = _SHORT.get(head, head) + equals + value
        if argument in switches:
            setattr(request, switches[argument], True)
        else:
            rest.append(argument)
    for key, value in split_arguments(rest):
        if key in ("model", "dataset", "config_files"):
            if not value:
                raise ConfigError(f"--{key} needs a value, as in --{key}={_EXAMPLE[key]}")
            setattr(request, key, value.split() if key == "config_files" else value)
        else:
            request.settings.append(f"--{key}" if value is None else f"--{key}={value}")
    return request


_EXAMPLE = {"model": "UR4RecMoE", "dataset": "ml-100k", "config_files": '"a.yaml b.yaml"'}


def main(argv: Sequence[str]) -> int:
    """Train and evaluate one configuration.

    The result goes to stdout: a summary, or with ``--json`` one line of JSON and nothing else. All else goes to stderr.

    Returns:
        Exit code 0.

    Raises:
        RecBoleLLMError: for whatever the user can mend.
    """
    request = parse(argv)
    if request.help or not argv:
        from recbole_llm.cli.texts import help_text

        print(help_text())
        return 0
    if request.list:
        from recbole_llm.cli.texts import list_text

        print(list_text(request.settings))
        return 0
    names = model_and_dataset(request.model, request.dataset, request.config_files, None, request.settings)
    # the commonest slips are found before torch takes seconds to load
    check_model_name(names[0])
    check_keys(*user_layers(request.config_files, None, request.settings))

    from recbole_llm.experiment import run

    # RecBole prints here and there; stdout is for the result alone
    with contextlib.redirect_stdout(sys.stderr):
        result = run(*names, config_files=request.config_files, config_dict=None, cli=request.settings)
    print(result.to_json() if request.json else result.summary())
    return 0
