"""The model of docs/add_a_model.md, for the tests of a module as if it were in its place."""

import sys
import types

import pytest
from documents import MODULE, ROOT, example_parts

from recbole_llm import paths, registry
from recbole_llm.config.checks import known_keys
from recbole_llm.registry import MODELS


@pytest.fixture(scope="module", autouse=True)
def _example_is_installed(tmp_path_factory):
    """Module, entry and YAML of the example as if they were in their places."""
    model, entry, _, settings = example_parts()
    home = tmp_path_factory.mktemp("checkout")
    (home / "properties").mkdir()
    for part in (ROOT / "properties").iterdir():
        if part.name != "model":
            (home / "properties" / part.name).symlink_to(part)
    (home / "properties" / "model").mkdir()
    for part in (ROOT / "properties" / "model").iterdir():
        (home / "properties" / "model" / part.name).symlink_to(part)
    (home / "properties" / "model" / "TextSASRec.yaml").write_text(settings, encoding="utf-8")
    (home / "dataset_atomic").symlink_to(ROOT / "dataset_atomic")
    with pytest.MonkeyPatch.context() as patch:
        module = types.ModuleType(MODULE)
        patch.setitem(sys.modules, MODULE, module)
        exec(compile(model, f"{MODULE}.py", "exec"), module.__dict__)
        entries = dict(vars(registry))
        exec(compile(entry, "registry.py", "exec"), entries)
        for key, spec in entries["MODELS"].items():
            patch.setitem(MODELS, key, spec)
        patch.setattr(paths, "_PACKAGE", home / "recbole_llm")
        known_keys.cache_clear()
        yield
    known_keys.cache_clear()
