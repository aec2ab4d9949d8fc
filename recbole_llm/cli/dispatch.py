"""Chooses the command and turns errors into exit codes: 0 well, 2 the user can mend it, 130 interrupted."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from recbole_llm.errors import ConfigError, RecBoleLLMError

# command -> module:function(argv) -> int, imported when chosen
COMMANDS = {
    "train": "recbole_llm.cli.train:main",
    "compare": "recbole_llm.cli.compare:main",
    "ablate": "recbole_llm.cli.compare:main_ablate",
    "tune": "recbole_llm.cli.tune:main",
    "report": "recbole_llm.cli.report:main",
    "reproduce": "recbole_llm.cli.reproduce:main",
    "doctor": "recbole_llm.cli.doctor:main",
    "audit": "recbole_llm.cli.audit:main",
    "convert": "recbole_llm.cli.convert:main",
    "encode": "recbole_llm.cli.encode:main",
    "augment": "recbole_llm.cli.augment:main",
    "recommend": "recbole_llm.cli.recommend:main",
    "diagnose": "recbole_llm.cli.diagnose:main",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        Exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = _command(arguments)(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RecBoleLLMError as error:
        if debug:
            raise
        return _fail(" ".join(str(error).split()))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if debug or package in ("", "recbole_llm", "recbole"):
            raise
        return _fail(f"the package '{package}' is not installed; run: pip install {package}")
    except KeyboardInterrupt:
        print(
            "interrupted; the same command goes on from what is finished (train and tune: with --resume)",
            file=sys.stderr,
        )
        return 130


def _command(arguments: list[str]) -> Callable[[list[str]], int]:
    """Take the command's name off the arguments and import it."""
    name = "train"
    if arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        if name not in COMMANDS:
            raise ConfigError(
                f"unknown command '{name}' (commands: {', '.join(COMMANDS)}); settings are given as --key=value"
            )
    module, _, function = COMMANDS[name].partition(":")
    return getattr(import_module(module), function)


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
