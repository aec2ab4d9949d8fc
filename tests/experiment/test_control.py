"""Control features: the placebo shuffles jointly, popularity tells fame alone."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import SMALL_UR4REC, cycle_settings, write_cycle

from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError
from recbole_llm.experiment.data import build_data, control, features_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cycle(tmp_path_factory.mktemp("cycle"))


def data_of(folder, **changes):
    return build_data(build_config("UR4RecMoE", "cycle", (), cycle_settings(folder) | SMALL_UR4REC | changes, ()))


def row_map(true: np.ndarray, shuffled: np.ndarray) -> list[int]:
    """Which true row stands in each shuffled row."""
    return [int(np.flatnonzero((true == row).all(1))[0]) for row in shuffled]


def test_shuffle_permutes_the_items_of_all_features_alike(folder):
    true, placebo = data_of(folder).features, data_of(folder, placebo="shuffle").features
    maps = [row_map(true[name].matrix, placebo[name].matrix) for name in true]
    assert all(m == maps[0] for m in maps)  # an item's facets still fit each other
    assert sorted(maps[0]) == list(range(25)) and maps[0][0] == 0  # [PAD] keeps its place
    assert sum(k == m for k, m in enumerate(maps[0])) < 6  # and few items their own features


def test_shuffle_takes_presence_along(folder):
    data = data_of(folder)
    theme = data.features["theme"]
    matrix, present = theme.matrix.copy(), theme.present.copy()
    matrix[4], present[4] = 0.0, False
    features = data.features | {"theme": replace(theme, matrix=matrix, present=present)}
    shuffled = control(features, "shuffle", 1, data)
    where = row_map(features["content"].matrix, shuffled["content"].matrix).index(4)
    assert np.flatnonzero(~shuffled["theme"].present).tolist() == [0, where]
    assert not shuffled["theme"].matrix[where].any()


def test_shuffle_hangs_on_the_split_seed_not_on_the_model_s(folder):
    def matrix(**changes):
        return data_of(folder, placebo="shuffle", **changes).features["theme"].matrix

    assert (matrix() == matrix(seed=77)).all()
    assert (matrix() != matrix(split_seed=1)).any()


def test_the_true_features_are_left_alone(folder):
    data = data_of(folder)
    before = {name: f.matrix.copy() for name, f in data.features.items()}
    control(data.features, "shuffle", 1, data)
    assert all((data.features[name].matrix == before[name]).all() for name in before)
    assert control(data.features, "none", 1, data) is data.features


def test_popularity_tells_the_training_count_and_nothing_else(folder):
    data = data_of(folder)
    features = control(data.features, "popularity", 1, data)
    matrix = features["content"].matrix
    counts = data.item_counts
    for a in range(1, data.n_items):
        for b in range(1, data.n_items):
            assert (counts[a] == counts[b]) == bool(np.allclose(matrix[a], matrix[b]))
    assert len(set(counts[1:].tolist())) > 1
    assert all((f.matrix == matrix).all() and f.present[1:].all() for f in features.values())
    assert not matrix[0].any() and not features["content"].present[0]


def test_every_control_has_its_own_hash(folder):
    hashes = {features_hash(data_of(folder, placebo=kind).features) for kind in ("none", "shuffle", "popularity")}
    assert len(hashes) == 3 and features_hash({}) == ""


def test_an_unknown_control_is_named(folder):
    data = data_of(folder)
    with pytest.raises(ConfigError, match="placebo is 'noise'; choose none, shuffle or popularity"):
        control(data.features, "noise", 1, data)
