"""Files of a report, and the command that writes them."""

import sys

import pytest

from recbole_llm.cli import report as command
from recbole_llm.errors import ConfigError, DataError, MissingDependencyError, RecBoleLLMError
from recbole_llm.report.cells import TEST_NAMES
from recbole_llm.report.write import FORMATS, available_formats, write_report


@pytest.mark.slow
def test_all_files_and_the_same_bytes_again(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    paths = write_report([comparison], tmp_path / "a", metrics=["hit@10"])
    assert [path.name for path in paths] == ["results.md", "results.tex", "results.csv", "index.html"]
    first = [path.read_bytes() for path in paths]
    again = write_report([comparison], tmp_path / "b", metrics=["hit@10"])
    assert [path.read_bytes() for path in again] == first
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(path.name for path in paths)  # no leftovers


def test_an_error_leaves_old_files_alone(comparison, tmp_path):
    (tmp_path / "results.md").write_text("old", encoding="utf-8")
    with pytest.raises(ConfigError):
        write_report([comparison], tmp_path, reference="nobody", formats=["md"])
    assert [p.name for p in tmp_path.iterdir()] == ["results.md"]
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == "old"


def test_unknown_format(comparison, tmp_path):
    with pytest.raises(ConfigError, match="--formats: 'pdf' is not known; choose from: md, tex, csv, html"):
        write_report([comparison], tmp_path, formats=["pdf"])


def test_formats_without_the_packages_of_the_page(comparison, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert available_formats() == ("md", "tex", "csv")
    with pytest.raises(MissingDependencyError, match="'jinja2'"):
        write_report([comparison], tmp_path / "out")


def test_all_formats_with_them():
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    assert available_formats() == tuple(FORMATS)


def test_command(comparison, tmp_path, capsys):
    note = tmp_path / "note.txt"
    note.write_text("From a file.", encoding="utf-8")
    out = tmp_path / "out"
    options = ["--formats", "md, tex", "--metrics", "hit@10", "--reference", "Pop", "--test", "wilcoxon"]
    assert command.main([str(comparison), "-o", str(out), "--title", "T", "--note", str(note), *options]) == 0
    assert capsys.readouterr().out == f"wrote {out / 'results.md'}\nwrote {out / 'results.tex'}\n"
    text = (out / "results.md").read_text(encoding="utf-8")
    assert text.startswith("# T\n\nFrom a file.\n\n## toy, loo-full\n\n| row | hit@10 | seeds |")
    assert "| Pop † |" in text and "Wilcoxon signed-rank test over users" in text
    chose = text[text.index("### Validation, which chose") : text.index("### hit@10: Pop minus each row")]
    assert "| validation ndcg@10 |" in chose and "ndcg" not in text.replace(chose, "")


def test_without_the_packages_of_the_page_the_command_writes_the_rest(comparison, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    out = tmp_path / "out"
    assert command.main([str(comparison), "-o", str(out)]) == 0
    assert capsys.readouterr().out.endswith("run: pip install 'recbole-llm[report]'\n")
    assert sorted(path.name for path in out.iterdir()) == ["results.csv", "results.md", "results.tex"]
    with pytest.raises(MissingDependencyError, match="or choose other --formats"):  # what was asked for by name
        command.main([str(comparison), "-o", str(out), "--formats", "html"])


def test_a_note_may_be_the_text_itself(tmp_path):
    assert command._note("A remark") == "A remark" and command._note("x" * 5000) == "x" * 5000
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match="--note: .*picture.png is not a text file"):
        command._note(str(tmp_path / "picture.png"))


def test_no_such_folder_is_named(tmp_path):
    with pytest.raises(RecBoleLLMError, match="absent: no such folder"):
        command.main([str(tmp_path / "absent"), "-o", str(tmp_path / "out"), "--formats", "md"])
    assert not (tmp_path / "out").exists()


def test_the_command_offers_what_there_is():
    from recbole_llm.evaluation.significance import TESTS

    assert command.FORMATS.split(",") == list(FORMATS) and tuple(TEST_NAMES) == TESTS
