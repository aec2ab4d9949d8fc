"""RunResult: the frozen record of one run, from which every table and plot is made."""

import ast
import hashlib
import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recbole_llm.registry import modules_of

# what a run with phases uses beyond every run: named, not imported, so that other runs' records do not depend on it
PHASED_RUN = "recbole_llm.experiment.phases:measure"
PHASED_DATA = "recbole_llm.data.phased_dataset:load_phased_data"
# the same of a run with impressions
IMPRESSION_DATA = "recbole_llm.data.impression_dataset:load_impression_data"
IMPRESSION_ROWS = "recbole_llm.trainer.impression_rows:ImpressionRows"

_NAME, _PACKAGE = "recbole_llm", Path(__file__).resolve().parent.parent
# what the registry says of a model ends up in its config
_DOES_NOT_COUNT = (f"{_NAME}.experiment.record", f"{_NAME}.registry", f"{_NAME}.config.needs")
# beginnings of the metrics that describe what is recommended, to whomever
_OF_LISTS = ("itemcoverage", "giniindex", "averagepopularity", "novelty", "tailpercentage", "shannonentropy")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_VERSIONED = ("recbole", "torch", "numpy", "scipy", "pandas")


@dataclass(frozen=True)
class RunResult:
    """One run: what was run on what, what came out, what it cost.

    Attributes:
        model, dataset, protocol, seed: what was run.
        config: resolved settings; config_hash: sha256 of those that matter for the result.
        code_hash: sha256 over the code that the run imports, docstrings and comments left out.
        commit: of the checkout, or "" outside of one.
        versions: python and package versions. machine: processor and threads.
        split: fingerprint of the split. features: name -> {rows, coverage, fingerprint}.
        valid, test: metrics in full precision; "" prefix for the protocol's own task, "<task>/" for the others.
        test_reads: how often the test split was opened in this run: 1.
        stages: what each training stage did, see StageResult.
        seconds: phase -> s. peak_bytes: peak resident memory of the process.
        n_parameters: trainable parameters. experts: {modality: {expert: mean gate}} where the model has experts.
        slices: test accuracy by how known the wanted item is, see evaluation/slices.py.
        run_folder: where checkpoints, log and per-user metrics lie.
    """

    model: str
    dataset: str
    protocol: str
    seed: int
    config: dict
    config_hash: str
    code_hash: str
    commit: str
    versions: dict[str, str]
    machine: dict[str, object]
    split: str
    features: dict[str, dict]
    valid: dict[str, float]
    test: dict[str, float]
    test_reads: int
    stages: list[dict]
    seconds: dict[str, float]
    peak_bytes: int
    n_parameters: int
    experts: dict[str, dict[str, float]] = field(default_factory=dict)
    slices: dict[str, dict[str, float]] = field(default_factory=dict)
    run_folder: str = ""

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=False)

    @classmethod
    def from_json(cls, line: str) -> "RunResult":
        return cls(**json.loads(line))

    def summary(self) -> str:
        """Stages, experts, costs and the test line, as text for a terminal."""
        lines = []
        if self.stages:
            metric = self.config["valid_metric"].lower()
            head = f"{'stage':<20}{'epochs':>7}{'best':>6}{'s/epoch':>9}{'start':>9}{metric:>10}{'hit@10':>9}"
            lines += [head, "-" * len(head)]
            for s in self.stages:
                start = "" if s["start_valid"] is None else f"{s['start_valid']:.4f}"
                hit = s["valid"].get("hit@10")
                lines.append(
                    f"{s['name']:<20}{s['epochs']:>7}{s['best_epoch']:>6}{s['seconds_per_epoch']:>9.1f}{start:>9}"
                    f"{s['best_valid']:>10.4f}{'' if hit is None else f'{hit:>9.4f}'}"
                )
            lines.append("(best: epoch of the best validation; 0 = the checkpoint the stage started from)")
        for modality, shares in self.experts.items():
            parts = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
            lines.append(f"experts, {modality}: {parts}")
        cost = ", ".join(f"{phase} {s:.1f} s" for phase, s in self.seconds.items())
        lines.append(f"cost: {cost}; peak {self.peak_bytes / 2**20:.0f} MiB; {self.n_parameters:,} parameters")
        lines.append(f"run folder: {self.run_folder} (all cut-offs of the metrics in result.json)")
        for name, members in self.slices.items():
            parts = self._shown(members)
            lines.append(f"test, {name} items ({members['items']:.0f}, {members['positives']:.0f} wanted): {parts}")
        lists = {m: v for m, v in self.test.items() if m.rpartition("/")[2].startswith(_OF_LISTS)}
        if lists:
            lines.append(f"test, what is recommended: {self._shown(lists)}")
        for name, metrics in (("valid", self.valid), ("test", self.test)):
            lines.append(f"{name}: " + self._shown({m: v for m, v in metrics.items() if m not in lists}))
        return "\n".join(lines)

    def _shown(self, metrics: dict[str, float]) -> str:
        """Metrics at the cut-off of the validation metric; all of them where none has it."""
        cutoff = "@" + self.config["valid_metric"].partition("@")[2]
        shown = {m: v for m, v in metrics.items() if m.endswith(cutoff)} or metrics
        return "  ".join(f"{m} {v:.4g}" if v >= 10 else f"{m} {v:.4f}" for m, v in shown.items())


def machine(device: str) -> dict[str, object]:
    """Processor, torch threads and device of this process."""
    import torch

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return {"processor": processor, "threads": torch.get_num_threads(), "device": device}


def modules_of_run(config: Any) -> list[str]:
    """Modules that a run uses and that are imported by name, for :func:`code_hash`."""
    named = [PHASED_RUN, PHASED_DATA] if config["phases"] else []
    named += [IMPRESSION_DATA, IMPRESSION_ROWS] if config["impressions"] else []
    return modules_of(config["model"], bool(config["fast_graph"])) + [path.partition(":")[0] for path in named]


@cache
def code_hash(*roots: str) -> str:
    """sha256 over the syntax trees of the modules that a run imports, docstrings left out.

    Two checkouts with the same hash compute the same. Comments, formatting and docstrings do not count, nor does what a
    run does not import: the command line, tools around runs, other models.

    Args:
        roots: modules that are imported by name, see :func:`modules_of_run`. The modules that run experiments always
            count.
    """
    digest = hashlib.sha256()
    for name, tree in sorted(_imported([f"{_NAME}.experiment.run", *roots]).items()):
        if name in _DOES_NOT_COUNT:
            continue
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(f"{name}\n{_written(tree)}\n".encode())
    return digest.hexdigest()


def _written(node: Any) -> str:
    """A syntax tree as text, the same in all versions of Python, which differ in the empty fields that nodes have."""
    if isinstance(node, ast.AST):
        filled = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(f'{name}={_written(value)}' for name, value in filled)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_written, node))}]"
    return repr(node)


def _imported(roots: list[str]) -> dict[str, ast.Module]:
    """Syntax trees of the package's modules that the roots import, directly or not, anywhere in their code."""
    found: dict[str, ast.Module] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in found or name.split(".")[0] != _NAME:
            continue
        path = _PACKAGE.joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.is_file():  # the last part is an attribute
            continue
        found[name] = tree = ast.parse(path.read_text(encoding="utf-8"))
        todo += [name.rpartition(".")[0]]  # a package's __init__ is imported with its modules
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@cache
def commit() -> str:
    """Commit of the checkout the package lies in, with "+" when it has changes; "" outside a checkout."""
    try:
        git = ["git", "-C", str(_PACKAGE.parent)]
        run = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        if not (_PACKAGE.parent / ".git").exists():
            return ""
        head = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], **run).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if changed else "")


def versions() -> dict[str, str]:
    """Python and the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
