"""Feature graphs of a run, as values and as files."""

import json

import numpy as np
import pytest
from synthetic import SMALL_LLMREC, checkerboard_settings, write_checkerboard

from recbole_llm.cli import main
from recbole_llm.diagnose.feature_graphs import ItemGraph, item_graphs
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.experiment import load, run

TINY = SMALL_LLMREC | {"field_dim": 8, "attention_heads": 2, "graph_hidden": 8, "epochs": 1, "epochs_per_stage": [1, 1]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = write_checkerboard(tmp_path_factory.mktemp("graphs"))
    titles = "".join(f"i{k}\tFilm number {k}\n" for k in range(26))
    (folder / "checkerboard" / "checkerboard.item").write_text(
        f"item_id:token\ttitle:token_seq\n{titles}", encoding="utf-8"
    )
    settings = checkerboard_settings(folder) | TINY | {"run_dir": str(folder / "runs"), "show_progress": False}
    found = {}
    for name, model, changes in (
        ("graphs", "EmerGLLMRec", {}),
        ("off", "EmerGLLMRec", {"use_enhanced_gnn": False}),
        ("other", "LLMRec", {}),
    ):
        known = settings if model == "EmerGLLMRec" else {k: v for k, v in settings.items() if k not in _OF_GRAPHS}
        found[name] = run(model, "checkerboard", known | changes).run_folder
    return found


_OF_GRAPHS = ("field_dim", "attention_heads", "graph_hidden")


def graph(**changes) -> ItemGraph:
    weights = np.array([[1.0, 0.2, 0.9], [0.2, 1.0, 0.7], [0.9, 0.7, 1.0]], dtype=np.float32)
    fields = {"item": "7", "title": "Seven", "n_interactions": 3, "fields": ("id", "text", "mood"), "weights": weights}
    return ItemGraph(**fields | {"present": np.array([True, True, True])} | changes)


class TestStrongest:
    def test_are_the_heaviest_first(self):
        found = graph().strongest(2)
        assert [(a, b) for a, b, _ in found] == [("id", "mood"), ("text", "mood")]
        assert [w for _, _, w in found] == pytest.approx([0.9, 0.7])

    def test_lie_between_fields_that_the_item_has(self):
        found = graph(present=np.array([False, True, True])).strongest()
        assert [(a, b) for a, b, _ in found] == [("text", "mood")]

    def test_are_edges(self):
        assert graph(weights=np.eye(3, dtype=np.float32)).strongest() == []


class TestItems:
    def test_by_token_and_by_title(self, runs):
        found = item_graphs(runs["graphs"], ["i4", "film NUMBER 7", "number 11"])
        assert [(g.item, g.title) for g in found] == [
            ("i4", "Film number 4"),
            ("i7", "Film number 7"),
            ("i11", "Film number 11"),
        ]

    def test_are_the_models_graphs(self, runs):
        model, data = load(runs["graphs"])
        found = item_graphs(runs["graphs"], ["i4", "i24"])
        ids = [data.base.field2token_id["item_id"][token] for token in ("i4", "i24")]
        import torch

        weights, present = model.feature_graphs(torch.tensor(ids))
        for k, one in enumerate(found):
            np.testing.assert_array_equal(one.weights, weights[k].numpy())
            np.testing.assert_array_equal(one.present, present[k].numpy())
            assert one.n_interactions == data.item_counts[ids[k]]
        assert found[0].present.all()
        assert not found[1].present[[found[1].fields.index(name) for name in ("id", "user", "profile")]].any()

    def test_without_names_are_the_most_used_and_cold_ones(self, runs):
        found = item_graphs(runs["graphs"])
        assert len(found) == 6
        assert {g.item for g in found if not g.n_interactions} == {"i24", "i25"}
        counts = [g.n_interactions for g in found]
        assert counts == sorted(counts, reverse=True)

    def test_that_do_not_exist(self, runs):
        with pytest.raises(DataError, match="has no item 'Film numbr 7'; did you mean 'Film number 7'"):
            item_graphs(runs["graphs"], ["Film numbr 7"])
        with pytest.raises(DataError, match="26 items are called like 'film'"):
            item_graphs(runs["graphs"], ["film"])

    @pytest.mark.parametrize(
        ("name", "message"), [("off", "use_enhanced_gnn: false"), ("other", "LLMRec has no feature")]
    )
    def test_of_runs_without_graphs(self, runs, name, message):
        with pytest.raises(ConfigError, match=message):
            item_graphs(runs[name])


class TestFiles:
    def test_of_the_command(self, runs, tmp_path, capsys):
        out = tmp_path / "graphs"
        command = ["diagnose", "--checkpoint", runs["graphs"], "--items", "i4; Film number 25", "--out", str(out)]
        assert main(command) == 0
        said = capsys.readouterr().out
        assert "Film number 4 (i4)" in said and str(out / "feature_graphs.html") in said
        assert sorted(path.name for path in out.iterdir()) == [
            "01-i4.png", "02-i25.png", "feature_graphs.html", "feature_graphs.json",
        ]  # fmt: skip
        assert (out / "01-i4.png").read_bytes().startswith(b"\x89PNG")
        page = (out / "feature_graphs.html").read_text(encoding="utf-8")
        assert page.count("<svg") == 2 and "a cold item" in page and "http" not in page.replace("http://www.w3.org", "")
        numbers = json.loads((out / "feature_graphs.json").read_text(encoding="utf-8"))
        wanted = item_graphs(runs["graphs"], ["i4", "i25"])
        for one, there in zip(wanted, numbers, strict=True):
            np.testing.assert_allclose(there["weights"], one.weights)
            assert [tuple(edge) for edge in there["strongest"]] == one.strongest()

    def test_titles_cannot_break_the_page(self, tmp_path):
        from recbole_llm.diagnose.page import write

        write(tmp_path, [graph(title="<b>& $x_1$")], "a run", 3)
        page = (tmp_path / "feature_graphs.html").read_text(encoding="utf-8")
        assert "<b>" not in page and "&lt;b&gt;&amp;" in page

    def test_bad_arguments_are_one_sentence(self, runs, capsys):
        assert main(["diagnose", "--checkpoint", runs["graphs"], "--graphs", "--strongest", "0"]) == 2
        assert main(["diagnose", "--checkpoint", "nowhere", "--graphs"]) == 2
        assert capsys.readouterr().err.count("error:") == 2
