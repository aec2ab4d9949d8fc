"""The hash of the code: what it covers and what it does not."""

import pytest

from recbole_llm.experiment import record


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules in the place of ours; the function gives its hash after changing a file."""
    monkeypatch.setattr(record, "_PACKAGE", tmp_path)
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "show.py").write_text("print(1)\n")
    (tmp_path / "model.py").write_text(SOURCE)

    def hashed(name: str = "model.py", source: str = SOURCE) -> str:
        (tmp_path / name).write_text(source)
        record.code_hash.cache_clear()
        return record.code_hash()

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

    def test_a_new_module_does(self, package):
        before = package()
        assert package("other.py", "X = 1\n") != before

    def test_the_command_line_does_not(self, package):
        assert package() == package("cli/show.py", "print(2)\n")

    def test_async_functions_too(self, package):
        source = SOURCE.replace("def score", "async def score")
        assert package(source=source) == package(source=source.replace("Scores.", "Other words."))


def test_ours_is_stable_within_a_process():
    first = record.code_hash()
    record.code_hash.cache_clear()
    assert record.code_hash() == first and len(first) == 64
