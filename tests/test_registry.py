"""Names, fall-through to RecBole's models and the settings that let them just run."""

import importlib
import sys

import pytest

from recbole_llm import registry
from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError, MissingDependencyError
from recbole_llm.registry import MODELS, ModelSpec, default_protocol, is_closed_form, recbole_models, resolve_model


def test_own_names_come_first(monkeypatch):
    monkeypatch.setitem(MODELS, "BPR", ModelSpec("collections:Counter", "shadows RecBole's"))
    assert resolve_model("BPR").__name__ == "Counter"


def test_built_in_models_are_those_that_recbole_finds():
    from recbole.utils import get_model

    names = [name for name, (family, _) in recbole_models().items() if family == "general_recommender"]
    assert {"BPR", "LightGCN", "EASE", "ItemKNN", "Pop", "NCL"} <= set(names)
    for name in ("LightGCN", "SASRec", "FM", "CFKG"):
        assert resolve_model(name) is get_model(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sasrec", "did you mean 'SASRec'"),
        ("UR4RecMOE", "did you mean 'UR4RecMoE'"),
        ("Lightgnc", "did you mean 'LightGCN'"),
        ("zzzzzz", "--list shows the names"),
    ],
)
def test_unknown_name(name, hint):
    with pytest.raises(ConfigError) as caught:
        resolve_model(name)
    assert str(caught.value).startswith(f"unknown model '{name}'; ") and hint in str(caught.value)


def test_unknown_name_does_not_import_optional_libraries(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # importing it now fails, as where it is not installed
    with pytest.raises(ConfigError):
        resolve_model("zzzzzz")
    with pytest.raises(
        MissingDependencyError, match="model 'LightGBM' needs the package 'lightgbm'.*pip install lightgbm"
    ):
        resolve_model("LightGBM")


def test_a_broken_module_of_ours_is_not_called_a_missing_package(monkeypatch):
    monkeypatch.setitem(MODELS, "Ghost", ModelSpec("recbole_llm.model.sequential.ghost:Ghost", "does not exist"))
    with pytest.raises(ModuleNotFoundError):
        resolve_model("Ghost")


@pytest.mark.parametrize("name", list(MODELS))
def test_every_listed_model_exists(name):
    model_class = resolve_model(name)
    assert model_class.__name__ == name
    assert MODELS[name].summary and is_closed_form(model_class) == MODELS[name].closed_form


def test_missing_recbole_is_one_clear_sentence(monkeypatch):
    def no_package(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_package)
    with pytest.raises(
        MissingDependencyError, match=r"RecBole is not installed; .*pip install --no-deps recbole==1\.2\.1"
    ):
        recbole_models.__wrapped__()
    with pytest.raises(MissingDependencyError, match="RecBole is not installed"):
        build_config("BPR", "ml-100k")


def test_default_protocols():
    assert default_protocol(resolve_model("LightGCN")) == "loo-full"
    assert default_protocol(resolve_model("FM")) == "ctr-labeled"
    assert is_closed_form(resolve_model("EASE")) and not is_closed_form(resolve_model("BPR"))


class TestNeeds:
    def test_cross_entropy_takes_no_negatives_and_bpr_does(self):
        assert build_config("SASRec", "ml-100k")["train_neg_sample_args"]["distribution"] == "none"
        config = build_config("SASRec", "ml-100k", cli=["--loss_type=BPR"])
        assert config["train_neg_sample_args"]["distribution"] == "uniform"
        assert config["MODEL_INPUT_TYPE"].name == "PAIRWISE"

    @pytest.mark.parametrize("name", ["RepeatNet", "Pop", "EASE", "MultiVAE"])
    def test_models_that_would_train_on_negatives(self, name):
        assert build_config(name, "ml-100k")["train_neg_sample_args"]["distribution"] == "none"

    def test_side_information_follows_selected_features(self):
        assert build_config("SASRecF", "ml-100k")["load_col"]["item"] == ["item_id", "class"]
        assert build_config("S3Rec", "ml-100k")["load_col"]["item"] == ["item_id", "class"]
        config = build_config("FDSA", "ml-100k", cli=["--selected_features=[class,release_year]"])
        assert config["load_col"]["item"] == ["item_id", "class", "release_year"]

    def test_context_aware_models_get_labels_and_their_protocol(self):
        config = build_config("DeepFM", "ml-100k")
        assert config["threshold"] == {"rating": 4} and "user" in config["load_col"]
        assert (config["eval_args"]["mode"]["valid"], config["valid_metric"], config["evaluator"]) == (
            "labeled",
            "AUC",
            "recbole",
        )

    def test_knowledge_models_load_the_graph(self):
        assert {"kg", "link"} <= set(build_config("CFKG", "ml-100k")["load_col"])

    def test_the_user_still_decides(self):
        config = build_config(
            "SASRecF", "ml-100k", config_dict={"load_col": {"item": ["item_id", "class", "movie_title"]}}
        )
        assert config["load_col"]["item"] == ["item_id", "class", "movie_title"]

    def test_fine_tuning_needs_its_pretrained_file(self):
        with pytest.raises(ConfigError, match="S3Rec with train_stage 'finetune'.*set pre_model_path"):
            build_config("S3Rec", "ml-100k", cli=["--train_stage=finetune"])

    @pytest.mark.slow
    @pytest.mark.slow
    def test_every_built_in_model_configures(self):
        """All but those that need a package or a file that does not come with RecBole."""
        for name, (family, _) in recbole_models().items():
            if family == "exlib_recommender" or name in ("GRU4RecKG", "KSR"):
                continue
            try:
                config = build_config(name, "ml-100k")
            except MissingDependencyError:
                continue
            assert config["model"] == name and config["eval_args"]["split"]


def test_nearest_ignores_case_and_keeps_spelling():
    assert registry.nearest("LEARNING_RATE", ["learning_rate", "x"]) == ["learning_rate"]
    assert registry.did_you_mean("qqq", ["abc"]) == ""
