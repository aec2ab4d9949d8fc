"""Imports run one way: parses the package and fails on a back edge, imports inside functions included."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "recbole_llm"

FREE = {"errors", "paths", "compat", "__version__"}
FOUNDATIONS = FREE | {"config", "registry"}
# part of the package -> what of the package it may import; an entry such as "model.losses" opens that module alone
ALLOWED = {
    "errors": set(),
    "paths": set(),
    "compat": {"errors"},
    "registry": FREE,
    "config": FREE | {"registry"},
    "data": FREE,
    "encoding": FREE | {"data.text", "data.atomic"},
    "convert": FREE | {"data.atomic", "data.files", "data.feature_file"},
    "model": FREE,
    "evaluation": FREE,
    "trainer": FREE | {"model.losses", "evaluation"},
    "experiment": FOUNDATIONS | {"data", "model", "evaluation", "trainer"},
    "comparison": FOUNDATIONS | {"experiment", "trainer", "evaluation", "data.files"},
    # a trial is a run without its test: data, stages and hooks are the experiment's; what it is worth, comparison tells
    "tuning": FOUNDATIONS
    | {"experiment", "comparison", "trainer", "report", "data.files", "data.dataset", "data.phases"},
    "augment": FOUNDATIONS | {"experiment", "data", "encoding", "serving"},
    "serving": FOUNDATIONS | {"experiment", "data", "evaluation", "trainer.eval_data", "trainer.fold_in"},
    "report": FREE | {"comparison", "data.files", "evaluation.slices"},
    # the first training steps follow the stages, and leaks are judged by the evaluation's AUC
    "diagnose": FREE
    | {"experiment", "serving", "report", "data.files", "registry", "trainer.staged", "evaluation.pooled"},
    # the commands build on experiments; encode and doctor look at feature files, which are data, not runs
    "cli": FOUNDATIONS
    | {
        *("experiment", "comparison", "report", "data", "encoding", "augment", "convert", "serving", "diagnose"),
        "tuning",
    },
    "": {"experiment", "serving"},  # the package itself gives out run, load and recommend
}
ENCODER_LIBRARIES = {"sentence_transformers", "transformers"}
ENCODER_MODULE = "encoding.models"


def edges(source: str, module: str) -> list[str]:
    """Full names that a module imports, wherever in it the statement stands; ``import_module("...")`` counts.

    Args:
        source: Python code.
        module: dotted name of the module below recbole_llm, for relative imports.
    """
    found = []
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    logger_names = {id(arg) for call in calls if ast.unparse(call.func).endswith("getLogger") for arg in call.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = f"recbole_llm.{module}".split(".")[: -node.level]
                base = ".".join([*package, base] if base else package)
            found += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in logger_names:
            if re.fullmatch(r"recbole_llm(\.\w+)+(:\w+)?", node.value):
                found.append(node.value.replace(":", "."))
    return found


def back_edges(source: str, module: str) -> list[str]:
    """What a module imports against the direction."""
    part = module.split(".")[0]
    bad = []
    for name in edges(source, module):
        top, _, rest = name.partition(".")
        if top in ENCODER_LIBRARIES and module != ENCODER_MODULE:
            bad.append(name)
        if top != "recbole_llm" or not rest:
            continue
        target = rest.split(".")[0]
        allowed = target in ALLOWED[part] or any(rest == a or rest.startswith(f"{a}.") for a in ALLOWED[part])
        if target != part and not allowed:
            bad.append(name)
    return bad


def patches_recbole(source: str) -> bool:
    """Whether code sets attributes of what it imported from RecBole, or of numpy, scipy, pandas or torch."""
    tree = ast.parse(source)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                top = (module or alias.name).split(".")[0]
                if top in ("recbole", "numpy", "scipy", "pandas", "torch"):
                    imported.add((alias.asname or alias.name).split(".")[0])
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            while isinstance(target, ast.Attribute):
                target = target.value
                if isinstance(target, ast.Name) and target.id in imported:
                    return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            first = node.args[0]
            while isinstance(first, ast.Attribute):
                first = first.value
            if isinstance(first, ast.Name) and first.id in imported:
                return True
    return False


def modules() -> dict[str, Path]:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@pytest.mark.parametrize("module", list(modules()))
def test_no_back_edge(module):
    source = modules()[module].read_text(encoding="utf-8")
    if module == "registry":  # its table names classes as text, imported when one is asked for
        source = re.sub(r'"recbole_llm\.(model|data)\.[\w.]+:\w+"', '"entry"', source)
    assert back_edges(source, module) == []


@pytest.mark.parametrize("module", [name for name in modules() if name != "compat"])
def test_only_compat_patches(module):
    assert not patches_recbole(modules()[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("data.split", "from recbole_llm.model.layers import Gate"),
        ("model.layers", "import recbole_llm.data.split"),
        ("model.general.x", "def f():\n    from recbole_llm.config import build_config"),
        ("evaluation.kernel", "from ..data import split"),
        ("evaluation.kernel", "from recbole_llm import trainer"),
        ("trainer.staged", "from recbole_llm.model.layers import Gate"),
        ("trainer.staged", "from recbole_llm.experiment import run"),
        ("experiment.run", "from recbole_llm.cli import main"),
        ("config.build", "importlib.import_module('recbole_llm.data.split')"),
        ("errors", "from recbole_llm import paths"),
        ("cli.train", "import sentence_transformers"),
        ("data.text", "from transformers import AutoModel"),
        ("cli.train", "from recbole_llm.trainer.staged import StagedTrainer"),
        ("comparison.plan", "from recbole_llm.tuning.space import Domain"),
    ],
)
def test_a_planted_back_edge_is_caught(module, planted):
    assert back_edges(planted, module) != []


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("trainer.staged", "from recbole_llm.model.losses import info_nce"),
        ("trainer.staged", "from recbole_llm.model import losses"),
        ("encoding.models", "from sentence_transformers import SentenceTransformer"),
        ("model.layers", "from recbole_llm.model import losses"),
        ("model.layers", "from . import losses"),
        ("experiment.run", "from recbole_llm.data.split import Split"),
        ("data.split", "log = logging.getLogger('recbole_llm.trainer')"),
    ],
)
def test_an_edge_in_the_right_direction_passes(module, planted):
    assert back_edges(planted, module) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import numpy as np\nnp.float_ = np.float64",
        "from recbole.trainer import Trainer\nTrainer.fit = None",
        "from recbole.data import utils\nsetattr(utils, 'x', 1)",
        "import torch\ntorch.nn.Module.forward = 1",
    ],
)
def test_a_planted_patch_is_caught(planted):
    assert patches_recbole(planted)
