"""Merge order, parsing, refusals, dataset folder, device and records of the configuration."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.config import (
    build_config,
    config_hash,
    model_and_dataset,
    parse_command_line,
    resolved,
    restore_config,
)
from recbole_llm.config.merge import merge
from recbole_llm.config.sources import SettingsLoader
from recbole_llm.errors import ConfigError, DataError


@pytest.fixture
def data_path(tmp_path, tiny_dataset) -> str:
    return str(tiny_dataset(tmp_path / "data"))


def build(data_path, model="BPR", dataset="tiny", **sources):
    cli = [f"--data_path={data_path}", *sources.pop("cli", [])]
    return build_config(model, dataset, cli=cli, **sources)


def write_yaml(path: Path, **settings) -> str:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(path)


class TestMergeOrder:
    def test_each_layer_overrides_the_one_before(self, data_path, tmp_path):
        first = write_yaml(tmp_path / "a.yaml", epochs=1, train_batch_size=11, seed=21, embedding_size=31)
        second = write_yaml(tmp_path / "b.yaml", train_batch_size=12, seed=22, embedding_size=32)
        config = build(
            data_path,
            config_files=[first, second],
            config_dict={"seed": 23, "embedding_size": 33},
            cli=["--embedding_size=34"],
        )
        assert [config[k] for k in ("epochs", "train_batch_size", "seed", "embedding_size")] == [1, 12, 23, 34]
        assert [config.key_sources[k] for k in ("epochs", "train_batch_size", "seed", "embedding_size")] == [
            first, second, "config_dict", "command line",
        ]  # fmt: skip

    def test_defaults_come_from_recbole_then_plugin_then_model(self, data_path):
        config = build(data_path, model="LightGCN")
        assert (config["learner"], config.key_sources["learner"]) == ("adam", "RecBole overall")
        assert (config["valid_metric"], config.key_sources["valid_metric"]) == ("NDCG@10", "plugin overall")
        assert (config["n_layers"], config.key_sources["n_layers"]) == (2, "RecBole model")

    def test_protocol_overrides_defaults_and_yields_to_the_user(self, data_path):
        config = build(data_path, cli=["--protocol=loo-cand100", "--n_candidates=9"])
        assert (config["min_rating"], config.key_sources["min_rating"]) == (4, "protocol loo-cand100")
        assert config["n_candidates"] == 9
        assert config["mask_history"] is False
        assert config["secondary_tasks"] == {"full": {"n_candidates": None, "mask_history": True}}

    def test_protocol_may_be_named_in_a_file(self, data_path, tmp_path):
        config = build(data_path, config_files=[write_yaml(tmp_path / "p.yaml", protocol="rs-full")])
        assert config["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}

    def test_nested_blocks_merge_and_split_and_mode_replace_whole(self, data_path):
        config = build(
            data_path,
            config_dict={"features": {"text": {"side": "item", "missing": "error"}}},
            cli=[
                "--features.text.missing=zero",
                "--eval_args.split={RS: [0.6, 0.2, 0.2]}",
                "--eval_args.mode={valid: uni50}",
            ],
        )
        assert config["features"]["text"] == {"side": "item", "missing": "zero"}
        assert config["eval_args"] == {
            "split": {"RS": [0.6, 0.2, 0.2]},
            "order": "TO",
            "group_by": "user",
            "mode": {"valid": "uni50", "test": "uni50"},
        }
        assert config.key_sources["features.text.side"] == "config_dict"
        assert config.key_sources["features.text.missing"] == "command line"

    def test_null_leaves_a_feature_out(self):
        config = build_config("BPR", "ml-100k", cli=["--features.visual=~"])
        assert "visual" not in config["features"] and "content" in config["features"]

    def test_config_dict_is_not_changed_nor_shared(self, data_path):
        given_dict = {
            "eval_args": {"mode": "full"},
            "metrics": ["NDCG"],
            "train_neg_sample_args": {"distribution": "uniform"},
        }
        before = copy.deepcopy(given_dict)
        config = build(data_path, config_dict=given_dict)
        config["metrics"].append("Hit")
        config["train_neg_sample_args"]["sample_num"] = 7
        assert given_dict == before
        assert build(data_path)["train_neg_sample_args"]["sample_num"] == 1

    def test_extra_block_is_lifted_and_known(self, data_path):
        config = build(data_path, config_dict={"extra": {"my_own_knob": 3}}, cli=["--my_own_knob=4"])
        assert config["my_own_knob"] == 4
        assert "extra" not in config

    def test_sys_argv_and_eval_are_not_read(self, data_path, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["run.py", "--epochs=77"])
        config = build(data_path, config_dict={"wandb_project": "__import__('os').getcwd()"})
        assert config["epochs"] == 300
        assert config["wandb_project"] == "__import__('os').getcwd()"

    def test_model_class_instead_of_name(self, data_path):
        from recbole.model.general_recommender.bpr import BPR

        config = build(data_path, model=BPR)
        assert config["model"] == "BPR" and config.model_class is BPR

    def test_model_and_dataset_from_a_file(self, data_path, tmp_path):
        file = write_yaml(tmp_path / "c.yaml", model="BPR", dataset="tiny", data_path=data_path)
        config = build_config(None, None, config_files=[file])
        assert (config["model"], config["dataset"]) == ("BPR", "tiny")
        assert model_and_dataset(None, "other", [file]) == ("BPR", "other")

    @given(
        st.recursive(
            st.none() | st.integers(),
            lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            max_leaves=12,
        ).filter(lambda tree: isinstance(tree, dict))
    )
    def test_merging_over_nothing_or_itself_changes_nothing(self, tree):
        assert merge([("x", {}), ("y", tree)])[0] == tree
        merged, sources = merge([("x", tree), ("y", tree)])
        assert merged == tree
        assert set(sources.values()) <= {"y"}

    def test_merging_by_hand(self):
        layers = [
            ("x", {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 3}, "g": 4}),
            ("y", {"a": {"c": {"d": 5}}, "e": {}, "g": {"h": 6}}),
        ]
        merged, sources = merge(layers)
        assert merged == {"a": {"b": 1, "c": {"d": 5}}, "e": {}, "g": {"h": 6}}
        assert sources == {"a.b": "x", "a.c.d": "y", "e": "y", "g.h": "y"}


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-3", 1e-3), ("-2E5", -2e5), ("1.5e+2", 150.0), (".5", 0.5), ("3", 3), ("true", True), ("None", None),
            ("~", None), ("[5,10]", [5, 10]), ("{'RS':[0.8,0.2]}", {"RS": [0.8, 0.2]}), ("2020-01-01", "2020-01-01"),
            ("1e", "1e"), ("a=b", "a=b"), ("", None),
        ],
    )  # fmt: skip
    def test_values_are_yaml(self, text, value):
        parsed = parse_command_line([f"--key={text}"])["key"]
        assert parsed == value and type(parsed) is type(value)

    def test_forms_of_an_option(self):
        assert parse_command_line(["--seed", "3", "--resume", "--gamma", "-0.5", "--a.b=1", "--a.c=2"]) == {
            "seed": 3, "resume": True, "gamma": -0.5, "a": {"b": 1, "c": 2},
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["epochs=3"], "stray argument 'epochs=3'"),
            (["--resume", "now"], "stray argument 'now'"),
            (["--seed=1", "--seed=2"], "--seed is given twice, as '1' and '2'"),
            (["--topk=[5"], "--topk=[5, line 1: not valid YAML"),
            (["--a=1", "--a.b=2"], "--a.b sets a part of 'a'"),
        ],
    )
    def test_what_is_no_option(self, arguments, message):
        with pytest.raises(ConfigError, match=_literal(message)):
            parse_command_line(arguments)

    @given(st.floats(allow_nan=False))
    def test_every_float_that_python_prints_parses_back(self, number):
        assert yaml.load(repr(number).replace("inf", ".inf"), Loader=SettingsLoader) == number

    def test_recboles_global_loader_is_left_alone(self, data_path):
        before = copy.copy(yaml.SafeLoader.yaml_implicit_resolvers)
        build(data_path)
        assert before == yaml.SafeLoader.yaml_implicit_resolvers
        assert yaml.safe_load("1e-3") == "1e-3"


def _literal(message: str) -> str:
    import re

    return re.escape(message)


class TestRefusals:
    @pytest.mark.parametrize(
        ("sources", "message"),
        [
            ({"cli": ["--learning_rat=1"]}, "unknown key 'learning_rat' (command line); did you mean 'learning_rate'"),
            ({"config_dict": {"Epochs": 1}}, "unknown key 'Epochs' (config_dict); did you mean 'epochs'"),
            ({"cli": ["--qqqqqqqq=1"]}, "unknown key 'qqqqqqqq' (command line); a key of your own goes below extra:"),
            ({"cli": ["--eval_args.spilt=x"]}, "unknown key 'spilt' in eval_args (command line); did you mean 'split'"),
            ({"cli": ["--protocol=loo-ful"]}, "unknown protocol 'loo-ful'; did you mean 'loo-full'? (protocols: "),
            ({"cli": ["--epochs=abc"]}, "epochs must be a whole number of at least 0, got 'abc' (command line)"),
            ({"cli": ["--epochs=1.5"]}, "epochs must be a whole number"),
            ({"cli": ["--epochs=~"]}, "epochs must be set, like its default 300, got None"),
            ({"cli": ["--train_batch_size=0"]}, "train_batch_size must be a whole number of at least 1, got 0"),
            ({"cli": ["--learning_rate=-1"]}, "learning_rate must be at least 0.0, got -1"),
            ({"cli": ["--learning_rate=fast"]}, "learning_rate must be a number, got 'fast'"),
            ({"cli": ["--show_progress=3"]}, "show_progress must be true or false, got 3"),
            ({"cli": ["--placebo=shufle"]}, "placebo must be 'none' or 'shuffle' or 'popularity', got 'shufle'"),
            ({"cli": ["--features=[text]"]}, "features must be a block of 'key: value' lines, got ['text']"),
            ({"cli": ["--metrics=[NDGC]"]}, "unknown metric 'NDGC'; did you mean 'ndcg'?"),
            ({"cli": ["--valid_metric=NDCG@50"]}, "valid_metric 'NDCG@50' needs 50 in topk, which is [5, 10, 20]"),
            ({"cli": ["--valid_metric=MAP@10"]}, "valid_metric 'MAP@10' is not among metrics; add 'MAP' to metrics"),
            ({"cli": ["--topk=0"]}, "topk must be whole numbers of at least 1, as in [5, 10], got [0]"),
            ({"config_files": ["absent.yaml"]}, "config file 'absent.yaml' does not exist"),
            ({"model": "lightgcn"}, "unknown model 'lightgcn'; did you mean 'LightGCN'"),
            ({"model": None}, "no model given: add --model=UR4RecMoE"),
            ({"dataset": None}, "no dataset given: add --dataset=ml-100k"),
        ],
    )  # fmt: skip
    def test_one_sentence(self, data_path, sources, message):
        with pytest.raises(ConfigError, match=_literal(message)) as caught:
            build(data_path, **sources)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"epochs: [1", "bad.yaml, line 1: not valid YAML (expected ',' or ']'"),
            (b"epochs: 1\nepochs: 2\n", "line 2: not valid YAML (key 'epochs' is given twice)"),
            (b"- epochs\n", "must hold 'key: value' lines"),
            (b"\xff\xfe\x00", "is not a UTF-8 text file"),
            (b"extra: 3\n", "extra must be a block of 'key: value' lines, got 3"),
            (b"!!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ],
    )
    def test_bad_file(self, data_path, tmp_path, content, message):
        file = tmp_path / "bad.yaml"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=_literal(message)):
            build(data_path, config_files=[file])

    def test_negative_sampling_under_cross_entropy(self, data_path):
        with pytest.raises(ConfigError, match="should be None when the loss_type is CE"):
            build(data_path, model="SASRec", config_dict={"train_neg_sample_args": {"distribution": "uniform"}})

    def test_every_shipped_key_is_allowed(self, data_path):
        """The allowed keys include those that RecBole's and the plugin's own files use."""
        config = build(data_path, model="NeuMF")
        given_back = {k: v for k, v in config.final_config_dict.items() if config.key_sources.get(k) == "RecBole model"}
        assert "mf_embedding_size" in given_back
        assert (
            build(data_path, model="NeuMF", config_dict=given_back)["mf_embedding_size"] == config["mf_embedding_size"]
        )


class TestDataset:
    def test_packaged_movielens(self, tmp_path):
        config = build_config("BPR", "ml-100k", cli=[f"--data_path={tmp_path}"])
        assert (Path(config["data_path"]) / "ml-100k.inter").is_file()
        assert config["load_col"] == {"inter": ["user_id", "item_id", "rating", "timestamp"]}

    def test_folder_below_data_path(self, data_path):
        config = build(data_path)
        assert config["data_path"] == str(Path(data_path) / "tiny")

    def test_columns_of_a_dataset_without_yaml_come_from_its_header(self, data_path):
        assert build(data_path)["load_col"] == {"inter": ["user_id", "item_id", "rating", "timestamp"]}

    def test_unknown_dataset_tells_where_it_looked_and_what_exists(self, data_path, monkeypatch):
        monkeypatch.setattr("recbole.data.dataset.dataset.Dataset._download", lambda self: pytest.fail("downloads"))
        with pytest.raises(DataError) as caught:
            build(data_path, dataset="tinny")
        message = str(caught.value)
        assert str(Path(data_path) / "tinny") in message
        assert "did you mean 'tiny'?" in message and "datasets here: ml-100k, tiny" in message

    def test_folder_without_interactions(self, data_path):
        (Path(data_path) / "hollow").mkdir()
        with pytest.raises(DataError, match=r"no file hollow\.inter in .*hollow"):
            build(data_path, dataset="hollow")

    def test_missing_file_or_column_of_load_col(self, data_path):
        with pytest.raises(DataError, match=r"load_col asks for tiny\.kg, which does not exist"):
            build(data_path, config_dict={"load_col": {"kg": ["head_id"]}})
        with pytest.raises(
            DataError, match=r"column 'klass' is not in .*tiny\.item \(columns: item_id, release_year, class\)"
        ):
            build(data_path, model="SASRecF", cli=["--selected_features=[klass]"])

    def test_presplit_files(self, data_path):
        folder = Path(data_path) / "parts"
        folder.mkdir()
        for part in ("train", "valid", "test"):
            (folder / f"parts.{part}.inter").write_text("user_id:token\titem_id:token\n1\t2\n")
        config = build(data_path, dataset="parts", config_dict={"benchmark_filename": ["train", "valid", "test"]})
        assert config["load_col"] == {"inter": ["user_id", "item_id"]}


class TestDevice:
    @pytest.mark.parametrize("options", [["--use_gpu=false"], ["--gpu_id="], ["--gpu_id=''"]])
    def test_forced_to_the_cpu(self, data_path, options, monkeypatch):
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert build(data_path, cli=options)["device"] == torch.device("cpu")

    @pytest.mark.parametrize("visible", [None, "3"])
    def test_environment_is_left_to_whoever_set_it(self, data_path, monkeypatch, visible):
        import torch

        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert build(data_path)["device"] == torch.device("cuda", 0)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible

    def test_gpu_that_is_not_there(self, data_path, monkeypatch):
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert build(data_path, cli=["--gpu_id=1"])["device"] == torch.device("cuda", 1)
        with pytest.raises(ConfigError, match="gpu_id '2' is not one of the 2 visible GPUs"):
            build(data_path, cli=["--gpu_id=2"])


class TestRecord:
    def test_resolved_is_plain(self, data_path):
        import json

        plain = resolved(build(data_path, model="SASRec"))
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert (plain["MODEL_TYPE"], plain["MODEL_INPUT_TYPE"], plain["device"]) == ("SEQUENTIAL", "POINTWISE", "cpu")

    def test_hash_follows_what_a_run_depends_on(self, data_path, tmp_path, tiny_dataset):
        base = config_hash(build(data_path))
        elsewhere = str(tiny_dataset(tmp_path / "elsewhere"))
        same = build(
            elsewhere, cli=["--run_dir=other", "--show_progress=false", "--use_gpu=false", "--state=ERROR", "--resume"]
        )
        assert config_hash(same) == base
        assert config_hash(build(data_path, cli=["--learning_rate=0.01"])) != base
        seeded = build(data_path, cli=["--seed=1"])
        assert config_hash(seeded) != base
        assert config_hash(seeded, ignore=["seed"]) == config_hash(build(data_path), ignore=["seed"])

    @pytest.mark.slow
    @pytest.mark.slow
    def test_hash_is_the_same_in_another_process(self, data_path):
        call = f"build_config('BPR', 'tiny', cli=['--data_path={data_path}'])"
        code = f"from recbole_llm.config import build_config, config_hash; print(config_hash({call}))"
        environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == config_hash(build(data_path))

    @pytest.mark.parametrize(("model", "dataset"), [("BPR", "tiny"), ("SASRec", "tiny"), ("DeepFM", "ml-100k")])
    def test_a_record_restores_the_same_configuration(self, data_path, model, dataset):
        options = ["--features.visual=~", "--secondary_tasks={}", "--gpu_id=", "--topk=10"]
        config = build(data_path, model=model, dataset=dataset, config_dict={"extra": {"knob": 1e-12}}, cli=options)
        record = yaml.safe_load(yaml.safe_dump(resolved(config)))
        restored = restore_config(record)
        assert resolved(restored) == resolved(config) and config_hash(restored) == config_hash(config)
        assert record == resolved(config)  # left as it was
        assert restored["knob"] == 1e-12 and "visual" not in restored["features"]

    def test_a_record_does_not_depend_on_the_working_folder(self, tmp_path, tiny_dataset, monkeypatch):
        tiny_dataset(tmp_path / "data")
        monkeypatch.chdir(tmp_path)
        record = resolved(build_config("BPR", "tiny", cli=["--data_path=data"]))
        monkeypatch.chdir("/")
        assert restore_config(record)["data_path"] == str(tmp_path / "data" / "tiny")

    def test_a_record_whose_data_is_gone(self, data_path):
        record = resolved(build(data_path))
        (Path(data_path) / "tiny" / "tiny.inter").unlink()
        with pytest.raises(DataError, match=r"no file tiny\.inter"):
            restore_config(record)

    def test_pickles(self, data_path):
        import pickle

        config = build(data_path)
        assert resolved(pickle.loads(pickle.dumps(config))) == resolved(config)


@pytest.mark.parametrize(
    ("dataset", "way_out"),
    [
        ("news-dkn", r"make it with: recbole-llm convert dkn --source FOLDER \("),
        ("anime", r"make it with: recbole-llm convert anime --source anime.zip \("),
        ("ml-1m", r"make it with: recbole-llm convert ml-1m --source FOLDER \("),
        ("elsewhere", "set data_path to the folder"),
    ],
)
def test_a_public_dataset_that_is_not_there_says_how_it_is_made(tmp_path, dataset, way_out):
    with pytest.raises(DataError, match=way_out):
        build_config("BPR", dataset, config_dict={"data_path": str(tmp_path)})
