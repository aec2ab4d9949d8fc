"""What needs a GPU and is no model's contract: the graph product, runs and their checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from phased import phased_settings, write_phased
from synthetic import SMALL_LLMREC, SMALL_UR4REC, checkerboard_settings, cycle_settings, write_checkerboard, write_cycle

from recbole_llm import run
from recbole_llm.experiment import load
from recbole_llm.experiment.data import eval_data
from recbole_llm.model.graph import adjacency_of, layer_mean
from recbole_llm.trainer.hooks import TrainerHooks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
ON_GPU = {"use_gpu": True, "gpu_id": "0", "show_progress": False, "state": "WARNING", "epochs": 3}


def test_the_graph_product_and_its_gradient_are_those_of_the_cpu():
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 300, 4000), rng.integers(1, 500, 4000)
    adjacency, x = adjacency_of(users, items, 300, 500), torch.randn(800, 32)
    there, found = adjacency.to("cuda"), []
    assert there.layout != torch.sparse_csr or there.col_indices().dtype == torch.int32
    for a, device in ((adjacency, "cpu"), (there, "cuda")):
        v = x.to(device, copy=True).requires_grad_()
        y = layer_mean(a, v, 3)
        y.square().sum().backward()
        found.append((y.detach().cpu(), v.grad.cpu()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["AGLRec", "EmerGLLMRec", "LightGCN", "EASE", "TextEASE", "UR4RecMoE", "SASRec"])
def test_a_run_ends_and_the_cpu_finds_its_scores_in_the_checkpoint(model, tmp_path):
    if model in ("UR4RecMoE", "SASRec"):
        dataset, settings = "cycle", cycle_settings(write_cycle(tmp_path / "data"))
        settings |= SMALL_UR4REC if model == "UR4RecMoE" else {"train_neg_sample_args": None}
    else:
        dataset, settings = "checkerboard", checkerboard_settings(write_checkerboard(tmp_path / "data"))
        own = {"LightGCN": {"fast_graph": True}, "EmerGLLMRec": SMALL_LLMREC}
        settings |= own.get(model, {"item_features": ["mood"]})
    result = run(model, dataset, settings | ON_GPU | {"run_dir": str(tmp_path / "runs")})
    there = load(result.run_folder)[0]
    settings = Path(result.run_folder) / "config.yaml"
    settings.write_text(settings.read_text(encoding="utf-8").replace("use_gpu: true", "use_gpu: false"))
    here, data = load(result.run_folder)
    assert next(there.parameters(), None) is None or next(there.parameters()).device.type == "cuda"
    valid = eval_data(data.config, data, "valid")
    rows = np.arange(len(valid.tasks[0]))
    scores = [valid.scorer(m, torch.device(d))(rows).cpu() for m, d in ((there, "cuda"), (here, "cpu"))]
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", ["AGLRec", "UR4RecMoE"])
def test_a_run_broken_off_goes_on(model, tmp_path, monkeypatch):
    if model == "UR4RecMoE":
        settings = cycle_settings(write_cycle(tmp_path / "data")) | SMALL_UR4REC
    else:
        settings = checkerboard_settings(write_checkerboard(tmp_path / "data")) | {"item_features": ["mood"]}
    settings |= ON_GPU | {"run_dir": str(tmp_path / "runs")}
    dataset, real = "cycle" if model == "UR4RecMoE" else "checkerboard", TrainerHooks._train_epoch

    def broken(self, data, epoch, *args, **kwargs):
        if epoch == 1:
            raise KeyboardInterrupt
        return real(self, data, epoch, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainerHooks, "_train_epoch", broken)
        run(model, dataset, settings)
    result = run(model, dataset, settings | {"resume": True})
    assert result.stages[0]["epochs"] >= 2 and np.isfinite(result.test["ndcg@10"])


@pytest.mark.parametrize("model", ["Pop", "BPR", "DeepFM"])
def test_phases(model, tmp_path):
    folder = write_phased(tmp_path / "data")
    result = run(model, "phased", phased_settings(folder, run_dir=str(tmp_path / "runs")) | ON_GPU)
    assert 0 <= result.test["warm-c/auc"] <= 1
