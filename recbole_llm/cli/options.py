"""Options of a command beside which any setting may be given, as ``--key=value``."""

import argparse
from collections.abc import Sequence

from recbole_llm.config.checks import known_keys
from recbole_llm.errors import ConfigError
from recbole_llm.registry import nearest


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """A command's own options, and the other arguments, which are settings.

    Raises:
        ConfigError: for an option that is no setting and near to one of the command's own: read as a setting, it would
            be reported later or not at all; and for a setting whose value, a word of its own, was taken for a file.
    """
    argv = list(argv)
    args, rest = parser.parse_known_args(argv)
    own = [text for text in parser._option_string_actions if text.startswith("--")]  # argparse has no public list
    settings = [f"--{key}" for key in known_keys()]
    for argument in (text for text in rest if text.startswith("--")):
        name, equals, _ = argument.partition("=")
        if name.split(".")[0] not in settings:
            near = nearest(name, [*own, *settings], n=1)
            if near and near[0] in own:
                raise ConfigError(f"unknown option {name}; did you mean {near[0]}?")
        value = next(iter(argv[argv.index(argument) + 1 :]), "-")
        if not equals and not value.startswith("-") and value not in rest:
            raise ConfigError(f"write {name}={value}: {parser.prog} takes the value of a setting only after =")
    return args, rest
