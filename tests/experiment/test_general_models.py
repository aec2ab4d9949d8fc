"""The project's general models through a whole run: folded in, recorded, loaded again."""

import pytest
import torch
from synthetic import checkerboard_settings, write_checkerboard

from recbole_llm.evaluation.kernel import evaluate
from recbole_llm.experiment import load, run
from recbole_llm.experiment.data import eval_data
from recbole_llm.registry import MODELS, model_spec
from recbole_llm.trainer.fold_in import fold_in

GENERAL = [name for name, spec in MODELS.items() if ".general." in spec.model]


@pytest.mark.parametrize("model", GENERAL)
def test_runs_and_loads_again(model, tmp_path):
    settings = checkerboard_settings(write_checkerboard(tmp_path))
    settings |= {
        "protocol": "rs-full",
        "run_dir": str(tmp_path / "runs"),
        "epochs": 2,
        "state": "WARNING",
        "topk": [10],
    }
    settings |= {"metrics": ["NDCG", "Recall"], "show_progress": False}
    if "LLMRec" in model:
        settings["item_facets"] = ["mood", "style"]  # of its own, the dataset has not all
    result = run(model, "checkerboard", settings)
    assert 0 < result.valid["ndcg@10"] <= 1 and 0 < result.test["ndcg@10"] <= 1
    closed = model_spec(model).closed_form
    assert (result.n_parameters == 0) == closed and len(result.stages[-1]["train_loss"]) == (0 if closed else 2)
    again, data = load(result.run_folder)
    test = eval_data(data.config, data, "test")
    assert fold_in(again, test.known_dataset()) == closed
    scorer = test.scorer(again, torch.device("cpu"))
    found = evaluate(test.tasks[0], scorer, metrics=data.config["metrics"], topk=data.config["topk"])
    assert found.metrics == pytest.approx(result.test, abs=1e-6)
