"""Plans: what a file means, what of it is refused, in which order it runs."""

import pytest
import yaml

from recbole_llm.comparison.plan import Plan, Row, make_plan, read_ablation, read_plan
from recbole_llm.errors import ConfigError


def written(tmp_path, content) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


FILE = {
    "dataset": "ml-100k",
    "protocols": ["loo-full", "rs-full"],
    "seeds": 3,
    "settings": {"topk": [10], "epochs": 5},
    "rows": [
        "Pop",
        {"model": "EASE", "grid": {"reg_weight": [100, 200]}},
        {"model": "SASRecAll", "label": "short", "settings": {"epochs": 2}, "seeds": 2},
        "SASRecAll",
    ],
}


class TestPlan:
    def test_rows_settings_and_defaults(self, tmp_path):
        plan = read_plan(written(tmp_path, FILE))
        assert plan.rows == (
            Row("Pop", "Pop"),
            Row("EASE", "EASE", grid={"reg_weight": [100, 200]}),
            Row("short", "SASRecAll", {"epochs": 2}, seeds=2),
            Row("SASRecAll", "SASRecAll"),
        )
        assert (plan.reference, plan.tested, plan.first_seed) == ("SASRecAll", ("ndcg@10",), 2020)

    def test_jobs_go_by_seed_and_pair_the_seeds(self, tmp_path):
        jobs = read_plan(written(tmp_path, FILE)).jobs()
        assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
        seeds = {}
        for job in jobs:
            seeds.setdefault((job.label, job.protocol), []).append(job.seed)
        expected = {"Pop": [2020], "EASE": [2020], "short": [2020, 2021], "SASRecAll": [2020, 2021, 2022]}
        assert seeds == {(label, p): s for label, s in expected.items() for p in ("loo-full", "rs-full")}
        assert {job.choice_seed for job in jobs} == {2020}

    def test_a_split_for_each_seed(self, tmp_path):
        jobs = read_plan(
            written(tmp_path, FILE | {"rows": ["Pop", "EASE", "SASRecAll"], "split_per_seed": True})
        ).jobs()
        assert {job.label: job.seed for job in jobs if job.seed == 2022} == dict.fromkeys(
            ["Pop", "EASE", "SASRecAll"], 2022
        )
        assert all(job.settings["split_seed"] == job.seed == job.choice_seed for job in jobs)

    def test_a_row_s_settings_lie_over_the_plan_s(self, tmp_path):
        jobs = {job.label: job for job in read_plan(written(tmp_path, FILE)).jobs()}
        assert jobs["short"].settings == {"topk": [10], "epochs": 2}
        assert jobs["SASRecAll"].settings == {"topk": [10], "epochs": 5}

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"rows": []}, "the comparison has no rows"),
            ({"rows": ["Pop", "Pop"]}, "two rows are called 'Pop'"),
            ({"rows": ["SASRecAl"]}, "unknown model 'SASRecAl'; did you mean 'SASRecAll'"),
            ({"rows": [{"label": "x"}]}, "a row is a model's name, or has the key model"),
            ({"rows": [{"model": "Pop", "setings": {}}]}, "row Pop: unknown key 'setings'; did you mean 'settings'"),
            ({"rows": [{"model": "Pop", "settings": [1]}]}, "row Pop: settings must map"),
            ({"rows": [{"model": "EASE", "grid": {"reg_weight": 1}}]}, "grid.reg_weight must be a list"),
            (
                {"rows": [{"model": "SASRecAll", "settings": {"hiden_size": 1}}]},
                "'hiden_size' .row SASRecAll.*'hidden_size'",
            ),
            ({"rows": [{"model": "SASRecAll", "grid": {"hiden_size": [1]}}]}, "'hiden_size' .row SASRecAll"),
            ({"settings": {"epoch": 1}}, "'epoch' .settings.; did you mean 'epochs'"),
            ({"rows": [{"model": "Pop", "seeds": 0}]}, "seeds must be a whole number of at least 1, not 0"),
            ({"seeds": True}, "seeds must be a whole number"),
            ({"protocols": ["loo-ful"]}, "unknown protocol 'loo-ful'; did you mean 'loo-full'"),
            ({"protocols": "loo-full"}, "protocols must be a list"),
            ({"reference": "SASRec"}, "reference 'SASRec' is no row; did you mean 'SASRecAll'"),
            ({"referense": "Pop"}, "unknown key 'referense'; did you mean 'reference'"),
            ({"dataset": None}, "dataset is missing"),
            ({"title": 2024}, "title must be a text, not 2024"),
            ({"note": 5}, "note must be a text"),
            ({"settings": [1]}, "settings must be keys and values"),
            ({"split_per_seed": "yes"}, "split_per_seed must be true or false, not 'yes'"),
            ({"split_per_seed": True, "settings": {"split_seed": 1}}, "leave out split_seed"),
            ({"split_per_seed": True}, "row short has seeds of its own; leave them out"),
            ({"first_seed": "2020"}, "first_seed must be a whole number"),
            ({"tested": ["NDGC@10"]}, "tested: 'NDGC@10' is no metric of a user; did you mean 'ndcg'"),
            ({"tested": ["ndcg"]}, "give its cut-off, as in ndcg@10"),
            ({"tested": "ndcg@10"}, "tested must be a list"),
            ({"rows": [{"model": "Pop", "settings": {"mask_history": False}}]}, "row Pop sets mask_history, in which"),
            ({"rows": [{"model": "EASE", "grid": {"n_candidates": [9]}}]}, "row EASE sets n_candidates, in which"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, change, message):
        with pytest.raises(ConfigError, match=message):
            read_plan(written(tmp_path, FILE | change))

    def test_tested_metrics_are_named_as_records_name_them(self, tmp_path):
        plan = read_plan(written(tmp_path, FILE | {"tested": ["NDCG@10", "full/Hit@5", "AUC"]}))
        assert plan.tested == ("ndcg@10", "full/hit@5", "auc")

    def test_nested_settings_of_a_row_join_the_plan_s(self, tmp_path):
        features = {"a": {"side": "item"}}
        row = {"model": "SASRecAll", "settings": {"features": {"b": {"side": "item"}}}}
        plan = read_plan(written(tmp_path, FILE | {"settings": {"features": features}, "rows": [row]}))
        assert set(plan.jobs()[0].settings["features"]) == {"a", "b"}

    @pytest.mark.parametrize("text", ["- a\n- b\n", "rows: [", ""])
    def test_no_mapping(self, tmp_path, text):
        with pytest.raises(ConfigError, match="valid YAML|must hold keys and values"):
            read_plan(written(tmp_path, text))

    def test_no_file_names_the_shipped_ones(self, tmp_path):
        with pytest.raises(ConfigError, match="there is no file nowhere.yaml; shipped ones: .*ml-100k-sequential.yaml"):
            read_plan("nowhere.yaml")


class TestAblation:
    FILE = {
        "dataset": "ml-100k",
        "base": {"model": "UR4RecMoE", "settings": {"epochs": 5, "fusion": "gate"}, "seeds": 2},
        "variants": [
            {"label": "fixed fusion", "settings": {"fusion": "fixed"}},
            {"label": "backbone", "model": "SASRecAll", "settings": {"fusion": None}},
        ],
    }

    def test_variants_change_the_base(self, tmp_path):
        plan = read_ablation(written(tmp_path, self.FILE))
        assert [row.label for row in plan.rows] == ["fixed fusion", "backbone", "UR4RecMoE"]
        assert plan.reference == "UR4RecMoE"
        assert plan.rows[0].settings == {"epochs": 5, "fusion": "fixed"} and plan.rows[0].seeds == 2
        assert plan.rows[1].model == "SASRecAll"

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"base": "UR4RecMoE"}, "an ablation needs a base with model"),
            ({"variants": []}, "the ablation has no variants"),
            ({"variants": [{"settings": {}}]}, "a variant needs a label"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, change, message):
        with pytest.raises(ConfigError, match=message):
            read_ablation(written(tmp_path, self.FILE | change))


class TestSensitivity:
    FILE = {
        "dataset": "ml-100k",
        "base": {"model": "SASRecAll", "settings": {"n_layers": 2, "epochs": 3}},
        "sensitivity": {"n_layers": [1, 4], "hidden_dropout_prob": [0.0]},
    }

    def test_a_row_a_value_beside_the_base(self, tmp_path):
        plan = read_ablation(written(tmp_path, self.FILE))
        assert [row.label for row in plan.rows] == ["hidden_dropout_prob=0.0", "n_layers=1", "n_layers=4", "SASRecAll"]
        assert plan.rows[2].settings == {"n_layers": 4, "epochs": 3}
        dropout, layers = ["hidden_dropout_prob=0.0"], ["n_layers=1", "n_layers=4"]
        assert plan.sensitivity == {"hidden_dropout_prob": dropout, "n_layers": layers}
        assert plan.reference == "SASRecAll"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sensitivity": [1]}, "must map settings to lists"),
            ({"sensitivity": {"n_layers": 1}}, "sensitivity.n_layers must be a list"),
            ({"sensitivity": {"n_layer": [1]}}, "n_layers"),
            ({"reference": "n_layers=1"}, "the base is the reference"),
        ],
    )
    def test_what_cannot_be_meant(self, tmp_path, change, message):
        with pytest.raises(ConfigError, match=message):
            read_ablation(written(tmp_path, self.FILE | change))


@pytest.mark.parametrize("kind, read", [("compare", read_plan), ("ablation", read_ablation)])
def test_every_shipped_file_is_a_plan(kind, read):
    from recbole_llm.paths import properties_dir

    files = sorted((properties_dir() / kind).glob("*.yaml"))
    assert files
    for file in files:
        plan = read(file.name)
        assert isinstance(plan, Plan) and plan.title and plan.seeds == 5


def test_models_of_the_command_line():
    plan = make_plan({"dataset": "ml-100k", "seeds": None}, [Row("Pop", "Pop")], "the command line")
    assert plan.seeds == 5 and plan.protocols == ("loo-full",)
