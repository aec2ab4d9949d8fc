"""Spaces and sweeps: read from YAML, RecBole's hyper.test and options; what cannot be meant is one sentence."""

import math

import pytest
import yaml

from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError
from recbole_llm.tuning.space import Domain, default_point, encoded, grid, read_hyper_test, read_space, settings_of
from recbole_llm.tuning.sweep import check_ends, find, make_sweep, read_file, seconds, spaces

TINY = {"model": "BPR", "dataset": "ml-100k", "trials": 3}


def sweep(tmp_path, content: dict, over: dict | None = None, settings: dict | None = None):
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return make_sweep(file, None, over or {}, settings or {})


def test_kinds_of_yaml():
    space = read_space(
        {
            "a": [1, 2],
            "b": {"loguniform": [0.001, 1]},
            "c.d": {"int": [1, 4]},
            "e": {"quniform": [0, 1, 0.25]},
            "f": [[1, 2], [3]],
        },
        "here",
    )
    assert space["a"] == Domain("choice", (1, 2)) and space["b"] == Domain("loguniform", (0.001, 1.0))
    assert space["b"].place(0.001) == 0 and space["b"].place(1.0) == pytest.approx(1)
    assert space["b"].place(math.sqrt(0.001)) == pytest.approx(0.5)
    assert space["c.d"].ends() == (1, 4) and space["f"].ends() == ([1, 2], [3])
    point = {"a": 2, "c.d": 3, "f": encoded([1, 2])}
    assert settings_of(space, point) == {"a": 2, "c": {"d": 3}, "f": [1, 2]}


def test_every_domain_is_one_of_ray_and_of_optuna():
    entries = {
        "a": [1, [2]], "b": {"uniform": [0, 1]}, "c": {"loguniform": [0.1, 1]}, "d": {"quniform": [0, 1, 0.5]},
        "e": {"int": [1, 3]}, "f": {"logint": [1, 8]},
    }  # fmt: skip
    for domain in read_space(entries, "here").values():
        drawn = [domain.ray().sample() for _ in range(50)]
        assert all(domain.optuna()._contains(domain.optuna().to_internal_repr(value)) for value in drawn)
        if domain.kind == "int":
            assert set(drawn) == {1, 2, 3}


def test_grid_is_all_points():
    space = read_space({"a": [1, 2], "b": {"int": [5, 6]}}, "here")
    assert grid(space) == [{"a": 1, "b": 5}, {"a": 1, "b": 6}, {"a": 2, "b": 5}, {"a": 2, "b": 6}]


def test_recbole_s_hyper_test(tmp_path):
    file = tmp_path / "hyper.test"
    file.write_text(
        "learning_rate loguniform -8,0\nembedding_size choice [64, 96]\n\n# a comment\n"
        "dropout_prob uniform 0,0.5\nweight_decay quniform 0,1,0.25\nmlp_hidden_size choice ['[64, 32]','[128]']\n"
    )
    space = read_hyper_test(file)
    assert space["learning_rate"].args == pytest.approx((math.exp(-8), 1.0))
    assert space["embedding_size"].args == (64, 96) and space["mlp_hidden_size"].args == ([64, 32], [128])
    assert space["dropout_prob"].args == (0.0, 0.5) and space["weight_decay"].args == (0.0, 1.0, 0.25)
    assert read_file(file) == {"space": space}
    found = make_sweep(None, file, TINY, {})
    assert set(found.space) == set(space)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("learning_rate normal 0,1", "line 1: must read 'setting kind values'"),
        ("learning_rate uniform", "line 1: must read"),
        ("learning_rate uniform 1,0", "low must be below high"),
        ("learning_rate choice 5", "must list at least one value"),
    ],
)
def test_a_bad_line_of_hyper_test(tmp_path, line, says):
    file = tmp_path / "hyper.test"
    file.write_text(line)
    with pytest.raises(ConfigError, match=says):
        read_hyper_test(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"space": {"learning_rate": {"loguniform": [0, 1]}}}, "low must be below high, both above 0"),
        (
            {"space": {"learning_rate": {"logunifrom": [0.1, 1]}}},
            "unknown kind 'logunifrom'; did you mean 'loguniform'",
        ),
        ({"space": {"learning_rate": 5}}, "must be a list of values or one of choice"),
        ({"space": {"n_layers": {"int": [1, 2.5]}}}, "needs 2 whole numbers for int"),
        ({"space": {"learning_rat": [1]}}, "unknown key 'learning_rat' .space.; did you mean 'learning_rate'"),
        ({"space": {"seed": [1, 2]}}, "seed is not searched"),
        ({"space": {}}, "nothing to search"),
        ({"search": "bayes"}, "search: 'bayes' is not known; choose from tpe"),
        ({"scheduler": "ahsa"}, "did you mean 'asha'"),
        ({"trials": 0}, "trials must be a whole number of at least 1"),
        ({"time": "soon"}, "time must be above 0 and read like 90s"),
        ({"search": "grid"}, "search: grid needs a list of values for learning_rate"),
        ({"search": "grid", "space": {"embedding_size": [1, 2, 3, 4]}}, "the grid has 4 points, more than trials: 3"),
        ({"search": "pbt"}, "population of at least 4"),
        ({"model": "BPRX"}, "BPRX"),
        ({"modle": "BPR"}, "unknown key 'modle'; did you mean 'model'"),
        ({"later_settings": ["x"]}, "later_settings names 'x'"),
        ({"dataset": None}, "no dataset given"),
    ],
)
def test_what_cannot_be_meant(tmp_path, change, says):
    content = TINY | {"space": {"learning_rate": {"loguniform": [0.001, 0.1]}}} | change
    with pytest.raises(ConfigError, match=says):
        sweep(tmp_path, content)


def test_layers_and_settings_that_are_not_searched(tmp_path):
    content = TINY | {"space": {"learning_rate": [0.1, 0.2], "embedding_size": [8]}, "settings": {"epochs": 3}}
    found = sweep(tmp_path, content, {"trials": 7, "time": "2m"}, {"learning_rate": 0.5, "epochs": 2})
    assert found.trials == 7 and found.time == 120 and found.search == "tpe"
    assert list(found.space) == ["embedding_size"]
    settings = found.settings_at({"embedding_size": 8})
    assert settings.pop("show_progress") is False and settings.pop("state") == "WARNING"
    assert settings == {"epochs": 2, "learning_rate": 0.5, "embedding_size": 8, "seed": 2020}


@pytest.mark.parametrize(("text", "found"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), (20, 20), (None, None)])
def test_seconds(text, found):
    assert seconds(text) == found


def test_a_value_that_cannot_be_meant_shows_at_once(tmp_path):
    found = sweep(tmp_path, TINY | {"space": {"embedding_size": [8, 1.5]}})

    def build(settings):
        return build_config(found.model, found.dataset, (), settings, ())

    with pytest.raises(ConfigError, match="embedding_size must be a whole number"):
        check_ends(found, build)


@pytest.mark.parametrize("name", [name for name in spaces() if name != "Pop"])
def test_shipped_spaces_hold_the_default_and_can_be_built(name):
    found = make_sweep(None, find(name), {"model": name.partition("-")[0], "dataset": "ml-100k"}, {})

    def build(settings):
        return build_config(found.model, found.dataset, (), settings, ())

    config = build(found.settings_at({}))
    check_ends(found, build)
    point = default_point(found.space, config)
    assert point is not None
    at = build(found.settings_at(point))
    assert all(at[key.split(".")[0]] == config[key.split(".")[0]] for key in point)
