"""The model of docs/add_a_model.md: its own test, the contract, a run."""

import pytest
from documents import MODULE, example_parts
from synthetic import cycle_settings, write_cycle
from test_imports import back_edges

import recbole_llm
from recbole_llm.config.locate import recbole_dir

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
