"""The compare and ablate commands: what they take, what they print and leave behind."""

import json

import pytest
import yaml
from synthetic import SMALL_SASREC, SMALL_UR4REC, cycle_settings, write_cycle

from recbole_llm.cli import main
from recbole_llm.cli.compare import _parser, _plan
from recbole_llm.comparison.record import read_records


def plan(arguments: list[str], ablation: bool = False):
    return _plan(*_parser(ablation).parse_known_args(arguments), ablation)


POP = ["compare", "--models", "Pop", "--dataset", "ml-100k"]


class TestArguments:
    def test_models_in_the_place_of_a_file(self):
        found = plan(["--models", "Pop,EASE", "--dataset", "ml-100k", "--protocols", "loo-full,rs-full", "--topk=[5]"])
        assert [row.label for row in found.rows] == ["Pop", "EASE"] and found.reference == "EASE"
        assert found.protocols == ("loo-full", "rs-full") and found.over == {"topk": [5]} and found.seeds == 5

    def test_the_command_line_lies_over_the_file(self):
        found = plan(["ml-100k-sequential.yaml", "--seeds", "2", "--protocols", "loo-full", "--use_gpu=false"])
        assert (found.seeds, found.protocols, found.over) == (2, ("loo-full",), {"use_gpu": False})
        assert found.reference == "UR4RecMoE" and len(found.rows) == 10

    def test_the_command_line_lies_over_rows_and_grids_too(self):
        found = plan(["ml-100k-sequential.yaml", "--reg_weight=7", "--seeds", "1"])
        jobs = {job.label: job for job in found.jobs()}
        assert all(job.settings["reg_weight"] == 7 for job in jobs.values())
        assert "reg_weight" not in jobs["EASE"].grid and "ease_weight" in jobs["EASEMarkov"].grid
        assert {job.seed for job in jobs.values()} == {2020}

    def test_an_ablation(self):
        found = plan(["UR4RecMoE.yaml", "--seeds", "1"], ablation=True)
        assert found.reference == "UR4RecMoE" == found.rows[-1].label and found.seeds == 1

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["compare"], "name a YAML file, or models as in --models Pop,EASE,SASRecAll --dataset ml-100k"),
            (["compare", "ml-100k-general.yaml", "--models", "Pop"], "name a YAML file, or models"),
            (["ablate"], "name a YAML file"),
            (["compare", "--models", "Pop,SASRecal", "--dataset", "ml-100k"], "did you mean 'SASRecAll'"),
            (["compare", "--models", "Pop", "--dataset", "ml-100k", "--epoch=3"], "did you mean 'epochs'"),
            (["compare", "--models", "Pop"], "dataset is missing"),
            (["compare", "--models", "Pop", "--dataset", "ml-100k", "--jobs", "0"], "--jobs must be at least 1"),
            ([*POP, "--import", "lists.csv"], "--import takes LABEL=FILE, not 'lists.csv'"),
            ([*POP, "--import", "Theirs=absent.csv"], "--import: there is no file absent.csv"),
            ([*POP, "--import", f"Pop={__file__}"], "--import: there is a row 'Pop' already"),
            ([*POP, "--ray", "--memory-gib", "4"], "--memory-gib bounds processes of this machine"),
        ],
    )
    def test_what_is_wrong_is_one_sentence_and_code_2(self, arguments, message, capsys):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_a_comparison_with_a_failure_and_an_import(tmp_path, capsys):
    folder = write_cycle(tmp_path / "data")
    rows = [
        "Pop",
        {"label": "broken", "model": "UR4RecMoE", "settings": SMALL_UR4REC | {"sasrec_loss": "hinge"}},
        {"label": "Markov chain", "model": "Markov", "grid": {"markov_window": [1, 4]}},
    ]
    content = {"title": "A title", "dataset": "cycle", "seeds": 1, "rows": rows, "settings": cycle_settings(folder)}
    file, lists, out = tmp_path / "plan.yaml", tmp_path / "lists.csv", tmp_path / "out"
    file.write_text(yaml.safe_dump(content))
    lists.write_text("user,item,rank\n" + "".join(f"u{u},i{k},{k + 1}\n" for u in range(30) for k in range(20)))
    arguments = [
        "compare",
        str(file),
        "-o",
        str(out),
        "--jobs",
        "2",
        "--json",
        "--no-estimate",
        "--import",
        f"Theirs={lists}",
    ]
    assert main(arguments) == 1  # one row has no result
    shown = capsys.readouterr()
    answer = json.loads(shown.out.splitlines()[-1])
    assert [row["label"] for row in answer["rows"]] == ["Theirs", "Pop", "broken", "Markov chain"]
    assert [row["status"] for row in answer["rows"]] == ["ok", "ok", "failed", "ok"]
    assert "[3/3]" in shown.err and "report: " in shown.err
    assert {record.label for record in read_records(out)} == {"Theirs", "Pop", "broken", "Markov chain"}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "A title" in page and "Theirs" in page and "choose ce or infonce" in page
    for name in ("results.md", "results.tex", "results.csv"):
        assert "Markov chain" in (out / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_ablation_in_full(tmp_path, capsys):
    folder = write_cycle(tmp_path / "data")
    content = {
        "title": "Parts",
        "dataset": "cycle",
        "seeds": 2,
        "settings": cycle_settings(folder),
        "base": {"model": "SASRecAll", "settings": SMALL_SASREC | {"epochs": 2}},
        "variants": [{"label": "half as wide", "settings": {"hidden_size": 8, "inner_size": 16}}],
    }
    file, out = tmp_path / "parts.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(content))
    assert main(["ablate", str(file), "-o", str(out), "--no-estimate"]) == 0
    capsys.readouterr()
    records = read_records(out)
    assert [(r.label, r.seed) for r in records] == [
        ("half as wide", 2020),
        ("half as wide", 2021),
        ("SASRecAll", 2020),
        ("SASRecAll", 2021),
    ]
    assert len({json.dumps(r.result.test) for r in records}) == 4  # the variant and the seeds really differ
    assert records[0].result.n_parameters < records[2].result.n_parameters
    report = (out / "results.md").read_text()
    assert report.startswith("# Parts\n") and "SASRecAll minus each row, over users" in report
