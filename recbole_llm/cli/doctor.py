"""``recbole-llm doctor``: what is installed, patched and missing, and what the shipped features cover."""

import importlib.metadata
import json
import os
import platform
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from recbole_llm import __version__, compat
from recbole_llm.config.locate import available_datasets, locate_dataset
from recbole_llm.errors import ConfigError, RecBoleLLMError
from recbole_llm.paths import dataset_atomic_dir

_HELP = """\
usage: recbole-llm doctor [--json]

Shows versions, patches in force, device, threads, what is missing (with the pip command) and the coverage of the
feature files below dataset_atomic/. Exit code 0 if runs can be started, 1 if not."""


@dataclass(frozen=True)
class Package:
    """One dependency: what is wanted, what is installed.

    Attributes:
        name: name on the package index.
        extra: the extra that wants it; None where every run needs it.
        wanted: version range.
        version: installed version, None where it is missing.
        ok: whether the installed version lies in the range.
    """

    name: str
    extra: str | None
    wanted: str
    version: str | None
    ok: bool


def main(argv: Sequence[str]) -> int:
    """Print the report.

    Returns:
        0 if runs can be started, 1 if not.

    Raises:
        ConfigError: for an argument that doctor does not know.
    """
    unknown = [argument for argument in argv if argument not in ("--json", "-h", "--help")]
    if unknown:
        raise ConfigError(f"doctor knows --json only, not '{unknown[0]}'")
    if "-h" in argv or "--help" in argv:
        print(_HELP)
        return 0
    report = examine()
    print(json.dumps(report) if "--json" in argv else _text(report))
    return 0 if report["runnable"] else 1


def examine() -> dict[str, Any]:
    """Everything the report shows, as plain data."""
    packages = [check_package(line) for line in requirement_lines()]
    problems = [_advice(package) for package in packages if package.extra is None and not package.ok]
    patches, machine = [], {}
    try:
        compat.apply()
        patches = [
            {"name": patch.name, "since": patch.since, "needed": patch.needed(), "in_force": patch.in_force}
            for patch in compat.patches()
        ]
        machine = _machine()
    except (RecBoleLLMError, ImportError) as error:
        problems.append(" ".join(str(error).split()))
    return {
        "runnable": not problems,
        "recbole_llm": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": [asdict(package) for package in packages],
        "patches": patches,
        **machine,
        "features": _coverage() if not problems else [],
        "problems": problems,
        "hints": [_advice(p) for p in packages if p.extra not in (None, "test") and not p.ok],
    }


def requirement_lines() -> list[str]:
    """Requirements of this project and its extras: of pyproject.toml in a checkout, else of the installed metadata."""
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        lines = list(project["dependencies"])
        for extra, wanted in project["optional-dependencies"].items():
            lines += [f'{line} ; extra == "{extra}"' for line in wanted]
    else:
        lines = importlib.metadata.requires("recbole-llm") or []
    lines.append(f"recbole=={compat.RECBOLE_VERSION}")
    return [line for line in lines if not line.startswith("recbole-llm[")]


def check_package(line: str) -> Package:
    """Compare a requirement with what is installed.

    Args:
        line: such as ``numpy>=1.26,<3`` or ``optuna>=4 ; extra == "tune"``.
    """
    requirement = Requirement(line)
    extra = re.search(r"""extra == ['"]([\w-]+)['"]""", str(requirement.marker or ""))
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    ok = version is not None and requirement.specifier.contains(version, prereleases=True)
    wanted = ",".join(sorted(map(str, requirement.specifier), key=lambda bound: (bound.startswith("<"), bound)))
    return Package(requirement.name, extra[1] if extra else None, wanted, version, ok)


def _advice(package: Package) -> str:
    found = f"{package.version} is installed" if package.version else "not installed"
    if package.name == "recbole":
        command = f"pip install --no-deps recbole=={compat.RECBOLE_VERSION}"
    elif package.extra:
        command = f"pip install 'recbole-llm[{package.extra}]'"
    else:
        command = f"pip install '{package.name}{package.wanted}'"
    purpose = f" for {package.extra}" if package.extra else ""
    return f"{package.name} {package.wanted} is needed{purpose} ({found}); run: {command}"


def _machine() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "gpus": gpus,
        "threads": torch.get_num_threads(),
        "cores": available,
    }


def _coverage() -> list[dict[str, Any]]:
    """Rows of every feature file below dataset_atomic/ against the ids in its dataset's interactions."""
    from recbole_llm.data.atomic import read_atomic
    from recbole_llm.data.feature_file import read_feature

    rows: list[dict[str, Any]] = []
    for name in available_datasets("dataset"):
        files = sorted((dataset_atomic_dir() / name).glob(f"{name}.*.safetensors"))
        if not files:
            continue
        interactions = read_atomic(locate_dataset(name, "dataset") / f"{name}.inter")
        for file in files:
            row = {"dataset": name, "feature": file.name.removeprefix(f"{name}.").removesuffix(".safetensors")}
            try:
                tokens, embedding, metadata = read_feature(file)
            except RecBoleLLMError as error:
                rows.append({**row, "error": " ".join(str(error).split())})
                continue
            column = interactions[metadata.get("id_field", "item_id")].astype(str)
            known = set(tokens)
            rows.append(
                {
                    **row,
                    "id_field": column.name,
                    "dim": int(embedding.shape[1]),
                    "covered": sum(token in known for token in column.unique()),
                    "of": int(column.nunique()),
                    "interactions": float(column.isin(known).mean()),
                }
            )
    return rows


def _text(report: dict[str, Any]) -> str:
    lines = [f"recbole_llm {report['recbole_llm']}   Python {report['python']}   {report['platform']}"]
    if "device" in report:
        gpus = f" ({', '.join(report['gpus'])})" if report["gpus"] else ""
        lines.append(f"device {report['device']}{gpus}   threads {report['threads']} of {report['cores']} cores")
    lines += ["", "packages"]
    for package in report["packages"]:
        state = "ok" if package["ok"] else "MISSING" if package["version"] is None else "OTHER VERSION"
        if package["extra"] and not package["ok"]:
            state = f"not there, only for {package['extra']}"
        lines.append(f"  {package['name']:<24}{package['version'] or '-':<24}{package['wanted']:<32}{state}")
    lines += ["", "patches to RecBole"]
    for patch in report["patches"]:
        state = "in force" if patch["in_force"] else "not needed here" if not patch["needed"] else "NOT IN FORCE"
        lines.append(f"  {patch['name']:<24}since {patch['since']:<24}{state}")
    lines += ["", "features below dataset_atomic/"]
    for row in report["features"]:
        if "error" in row:
            lines.append(f"  {row['dataset']} {row['feature']}: {row['error']}")
            continue
        share = row["covered"] / row["of"]
        lines.append(
            f"  {row['dataset']:<12}{row['feature']:<14}{row['covered']}/{row['of']} {row['id_field']}, {share:.1%}, "
            f"{row['interactions']:.1%} of interactions, {row['dim']} wide"
        )
    if report["hints"]:
        lines += ["", "optional", *(f"  {hint}" for hint in report["hints"])]
    if report["problems"]:
        lines += ["", "to mend before a run", *(f"  {problem}" for problem in report["problems"])]
    return "\n".join([*lines, "", "runs can be started" if report["runnable"] else "runs cannot be started yet"])
