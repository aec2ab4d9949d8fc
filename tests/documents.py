"""The project's documents taken apart, and the commands that they show tried without running them."""

import re
import shlex
from pathlib import Path

from recbole_llm.cli import audit, augment, compare, convert, diagnose, encode, recommend, report, reproduce, tune
from recbole_llm.cli.dispatch import COMMANDS
from recbole_llm.cli.train import parse
from recbole_llm.config.checks import check_keys
from recbole_llm.config.sources import parse_command_line, user_layers
from recbole_llm.registry import MODELS, check_model_name
from recbole_llm.tuning.sweep import find, make_sweep

ROOT = Path(__file__).resolve().parents[1]
# docs/results.md is what `recbole-llm report` writes; its form is tested with the reports
DOCS = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.name != "results.md")]
GENERATED = r"<!-- ([\w-]+):begin -->\n(.*?)<!-- \1:end -->"
EXAMPLE = (ROOT / "docs" / "add_a_model.md").read_text(encoding="utf-8")
MODULE = "recbole_llm.model.sequential.text_sasrec"
# options of the command line that are no settings
SWITCHES = {"json", "help", "list", "debug", "config_files"} | {
    option.removeprefix("--").replace("-", "_")
    for parser in (
        compare._parser(False),
        *(c._parser() for c in (report, reproduce, convert, encode, augment, recommend, diagnose, tune)),
    )
    for option in parser._option_string_actions
}
PLACEHOLDER = "KEY"
PROJECT_MODELS = set(MODELS)
PROGRAMS = ("python", "make", "recbole-llm", "pip", "uv")


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """Fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """Inline code outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def commands(text: str) -> list[list[str]]:
    """Command lines of bash blocks and of inline code that starts with a program, as words, comments dropped."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines() if line.strip()]
    lines += [span for span in spans(text) if span.split()[0] in PROGRAMS and " " in span]
    return [shlex.split(line, comments=True) for line in lines]


def check_settings(arguments: list[str]) -> None:
    """Model, protocol, files and keys of a training command exist; raises what the command line would."""
    request = parse(arguments)
    if request.model:
        check_model_name(request.model)
    layers, allowed = user_layers(request.config_files, None, request.settings)
    check_keys(layers, allowed)
    for _, settings in layers:
        if "protocol" in settings:
            assert (ROOT / "properties" / "protocol" / f"{settings['protocol']}.yaml").is_file()


def check_command(words: list[str]) -> None:
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "recbole-llm":
        command = rest.pop(0)
        assert command in COMMANDS
        if command == "encode":
            encode._parser().parse_args(rest)
        elif command == "convert":
            convert._parser().parse_args(rest)
        elif command == "tune":
            args, settings = tune._parser().parse_known_args(rest)
            names = ("model", "dataset", "trials", "time", "search", "scheduler", "seeds")
            make_sweep(args.file and find(args.file), args.space and find(args.space),
                       {key: getattr(args, key) for key in names}, parse_command_line(settings))  # fmt: skip
        elif command in ("compare", "ablate"):
            _, settings = compare._parser(command == "ablate").parse_known_args(rest)
            check_settings(settings)
        elif command == "report":
            report._parser().parse_args(rest)
        elif command == "reproduce":
            reproduce._parser().parse_args(rest)
        elif command == "recommend":
            recommend._parser().parse_args(rest)
        elif command == "augment":
            check_settings(augment._parser().parse_known_args(rest)[1])
        elif command == "diagnose":
            args, settings = diagnose._parser().parse_known_args(rest)
            names = [f"--{key}={value}" for key in ("model", "dataset") if (value := getattr(args, key))]
            check_settings([*names, *settings])
        elif command == "audit":
            check_settings(audit._parser().parse_known_args(rest)[1])
        elif command == "train":
            check_settings(rest)
    elif program == "pip":
        extras = re.findall(r"\[(\w+)\]", " ".join(rest))
        declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert rest[0] == "install" and all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras)
    elif program == "uv":
        assert rest == ["sync"]
    else:
        assert program == "python", f"{program} is no program that the documents may call"
        script, *rest = rest
        assert (ROOT / script).is_file(), f"{script} does not exist"
        if script == "run_recbole_llm.py":
            check_settings(rest)
        else:
            source = (ROOT / script).read_text(encoding="utf-8")
            for module in re.findall(r"^import (\w+)$", source, flags=re.MULTILINE):  # options may be a neighbour's
                beside = (ROOT / script).with_name(f"{module}.py")
                source += beside.read_text(encoding="utf-8") if beside.is_file() else ""
            assert all(f'"{word.partition("=")[0]}"' in source for word in rest if word.startswith("--"))


def example_parts() -> tuple[str, str, str, str]:
    """Source of the model, of its entry and of its test, and its YAML."""
    model, entry, test = blocks(EXAMPLE, "python")
    return model, entry, test, blocks(EXAMPLE, "yaml")[0]
