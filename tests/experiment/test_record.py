"""The hash of the code: what it covers and what it does not."""

import ast

import pytest

from recbole_llm.experiment import record
from recbole_llm.registry import modules_of


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in the place of ours; the function gives its hash after changing a file."""
    monkeypatch.setattr(record, "_PACKAGE", tmp_path)
    files = {
        "__init__.py": "",
        "experiment/__init__.py": "from recbole_llm.experiment.run import run\n",
        "experiment/run.py": "def run():\n    from recbole_llm import layers\n    return layers\n",
        "layers.py": "WIDTH = 1\n",
        "model.py": SOURCE,
        "other.py": "import recbole_llm.experiment.run\n",
        "registry.py": "from recbole_llm.layers import WIDTH\n",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)

    def hashed(name: str = "model.py", source: str = SOURCE) -> str:
        (tmp_path / name).write_text(source)
        record.code_hash.cache_clear()
        return record.code_hash("recbole_llm.model")

    yield hashed
    record.code_hash.cache_clear()


SOURCE = '''"""A module."""


class Model:
    """A class."""

    def score(self, x):
        """Scores."""
        return x * 2
'''


class TestCodeHash:
    def test_comments_docstrings_and_layout_do_not_count(self, package):
        commented = SOURCE.replace("return x * 2", "# doubled\n        return (x  *  2)")
        documented = SOURCE.replace('"""Scores."""', '"""Scores, which are doubled.\n\n        At length.\n        """')
        assert package() == package(source=commented) == package(source=documented)
        assert package(source=SOURCE.replace('    """A class."""\n\n', "")) == package()

    def test_code_does(self, package):
        before = package()
        assert package(source=SOURCE.replace("* 2", "* 3")) != before
        assert package(source=SOURCE.replace("score", "rank")) != before
        assert package() == before

    @pytest.mark.parametrize("name", ["layers.py", "__init__.py", "experiment/__init__.py", "experiment/run.py"])
    def test_what_the_run_imports_does(self, package, name):
        before = package()
        assert package(name, "from recbole_llm import layers as changed\n") != before

    def test_what_it_does_not_import_does_not(self, package):
        assert package() == package("other.py", "X = 2\n") == package("registry.py", "X = 2\n")

    def test_a_module_that_is_imported_now_does(self, package):
        before = package()
        assert package("layers.py", "WIDTH = 1\nimport recbole_llm.other\n") != before
        before = package("layers.py", "WIDTH = 1\nimport recbole_llm.other\n")
        assert package("other.py", "X = 3\n") != before

    def test_async_functions_too(self, package):
        source = SOURCE.replace("def score", "async def score")
        assert package(source=source) == package(source=source.replace("Scores.", "Other words."))


def test_ours_covers_the_model_and_the_trainer():
    names = set(record._imported(["recbole_llm.experiment.run", *modules_of("UR4RecMoE")]))
    assert {f"recbole_llm.{name}" for name in COVERED} <= names
    assert not any(name.startswith("recbole_llm.cli") or name.startswith("recbole_llm.encoding") for name in names)
    first = record.code_hash()
    assert len(first) == 64 and first != record.code_hash(*modules_of("UR4RecMoE"))


COVERED = (
    "compat.own_bugs",
    "config.merge",
    "data.chunks",
    "evaluation.kernel",
    "model.layers",
    "model.sequential.ur4rec_moe.moe",
    "trainer.hooks",
)


def test_an_empty_field_that_only_a_later_python_has_does_not_count():
    """3.12 gave functions and classes ``type_params``, and 3.11 has none."""
    older, later = ast.parse("def f(x):\n    return x"), ast.parse("def f(x):\n    return x")
    later.body[0]._fields = (*later.body[0]._fields, "of_a_later_python")
    later.body[0].of_a_later_python = []
    assert ast.dump(older) != ast.dump(later)
    assert record._written(older) == record._written(later) != record._written(ast.parse("def f(x):\n    return y"))
