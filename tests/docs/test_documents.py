"""The documents are true: links, commands, keys and modules they name exist."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from documents import (
    DOCS,
    GENERATED,
    PLACEHOLDER,
    PROJECT_MODELS,
    ROOT,
    SWITCHES,
    blocks,
    check_command,
    check_settings,
    commands,
    name,
    spans,
)  # fmt: skip

from recbole_llm.comparison.plan import read_ablation, read_plan
from recbole_llm.config.checks import check_keys, known_keys
from recbole_llm.report import markdown
from recbole_llm.report.write import make_report
from recbole_llm.tuning.sweep import make_sweep


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_every_relative_link_leads_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists() and file.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_every_command_can_be_given(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = document.read_text(encoding="utf-8")
    given = r"^with `(\S+\.yaml)`:\n\n```yaml\n(.*?)^```"  # a file that the document has its reader write
    for file, content in re.findall(given, text, flags=re.MULTILINE | re.DOTALL):
        Path(file).write_text(content, encoding="utf-8")
    for words in commands(text):
        check_command(words)


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_every_option_and_key_in_the_text_exists(document):
    for span in spans(document.read_text(encoding="utf-8")):
        if span.startswith("--"):
            for option in (word for word in shlex.split(span) if word.startswith("--")):
                key = re.match(r"--([\w-]+)", option)[1].replace("-", "_")
                assert key in known_keys() | SWITCHES | {PLACEHOLDER}, span
                if "<" not in option and key not in SWITCHES | {PLACEHOLDER}:
                    check_settings([option])
        elif key := re.fullmatch(r"([a-z_]\w+): \S.*", span):
            assert key[1] in known_keys(), span


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_every_key_of_a_yaml_block_or_table_exists(document, tmp_path):
    text = document.read_text(encoding="utf-8")
    for block in blocks(text, "yaml"):
        content = yaml.safe_load(block)
        if "space" in content:
            file = tmp_path / "sweep.yaml"
            file.write_text(block, encoding="utf-8")
            make_sweep(file, None, {}, {})
        elif {"rows", "base"} & set(content):
            file = tmp_path / "plan.yaml"
            file.write_text(block, encoding="utf-8")
            plan = read_plan(file) if "rows" in content else read_ablation(file)
            check_keys([(row.label, row.settings) for row in plan.rows], set())
        else:
            check_keys([(name(document), content)], set())
    for table in re.findall(r"^\| keys? \|.*\n\|[-| ]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
        for row in table.splitlines():
            keys = re.findall(r"`(\w+)[^`]*`", row.split("|")[1])
            assert keys and set(keys) <= known_keys(), row


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_every_python_block_compiles(document):
    for block in blocks(document.read_text(encoding="utf-8"), "python"):
        compile(block, name(document), "exec")


@pytest.mark.parametrize("document", DOCS, ids=name)
def test_documents_stay_short(document):
    text = re.sub(GENERATED, "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for module_list in blocks(text, "text"):  # a line a module, however many there are
        text = text.replace(module_list, "")
    assert len(text.splitlines()) <= 180


@pytest.mark.parametrize(
    "planted",
    [
        "make demoo",
        "recbole-llm doctors",
        "recbole-llm encode --dataset x --facets y",
        "recbole-llm convert movies --source x",
        "python run_recbole_llm.py -m UR4RecMoe -d ml-100k",
        "python run_recbole_llm.py -m BPR -d ml-100k --epoch=3",
        "python run_recbole_llm.py -m BPR -d ml-100k --protocol=loo-ful",
        "python run_recbole_llm.py -m BPR -d ml-100k --config_files=nowhere.yaml",
        "python benchmarks/nothing.py",
        "python benchmarks/feature_load.py --ful",
        "pip install '.[txt]'",
        "rm -rf /",
    ],
)
def test_a_planted_wrong_command_is_caught(planted):
    with pytest.raises((Exception, SystemExit)):
        check_command(shlex.split(planted))


class TestArchitecture:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

    def test_every_module_has_its_line(self):
        listed = set(re.findall(r"^ *([\w/]+\.py)  +\S", "\n".join(blocks(self.text, "text")), flags=re.MULTILINE))
        package = ROOT / "recbole_llm"
        there = {str(f.relative_to(package)) for f in package.rglob("*.py") if f.name != "__init__.py"}
        assert there - listed == set(), "modules without a line in docs/architecture.md"
        assert listed - there == set(), "docs/architecture.md names modules that do not exist"

    def test_every_path_in_the_text_exists(self):
        paths_named = [s for s in spans(self.text) if re.fullmatch(r"(recbole_llm|properties|tests|docs)/[\w./]+", s)]
        assert paths_named
        for path in paths_named:
            assert (ROOT / path).exists(), path

    def test_every_patch_is_named(self):
        from recbole_llm import compat

        assert [patch.name for patch in compat.patches() if f"`{patch.name}`" not in self.text] == []


def test_readme_names_every_model_of_the_project():
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Models")[1].split("\n## ")[0]
    cells = re.findall(r"^\| ([^|]*) \|", table, flags=re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == PROJECT_MODELS


def test_readme_keeps_the_place_of_the_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    kept = dict(re.findall(GENERATED, text, flags=re.DOTALL))
    there = {p.parent.name for p in (ROOT / "benchmarks" / "results").glob("*/comparison.json")}
    assert set(kept) <= there, "README has the place of a table without records"
    assert {"ml-100k-sequential", "ml-100k-general", "ml-100k-cold"} <= set(kept)  # docs/results.md has the others too
    assert all("| ---" in content or "| :---" in content for content in kept.values())


@pytest.mark.slow
def test_the_results_are_those_of_the_kept_records():
    """No number in the documents but from a record: the tables come out again, to the letter."""
    results = ROOT / "benchmarks" / "results"
    folders = sorted(path.parent for path in results.glob("*/comparison.json"))
    assert markdown.render(make_report(folders)) == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_table_of_searches_is_that_of_the_kept_records():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import tuned

    kept = dict(re.findall(GENERATED, (ROOT / "docs" / "tune.md").read_text(encoding="utf-8"), flags=re.DOTALL))
    assert kept["tuned"] == markdown.table(tuned.before_and_after(tuned.kept_searches())) + "\n"
