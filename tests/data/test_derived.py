"""What was made from a split's training rows is refused under another split."""

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic import cycle_settings, write_cycle

from recbole_llm.config import build_config
from recbole_llm.data.derived import beside, check_split, load_edges, read_origin, write_derived
from recbole_llm.data.feature_file import save_feature
from recbole_llm.errors import DataError, SplitMismatchError
from recbole_llm.experiment.data import build_data, named_features

SPLIT, OTHER = "a" * 64, "b" * 64


def test_lines_and_where_they_come_from(tmp_path: Path):
    path = tmp_path / "d.user_profile.jsonl"
    write_derived(path, [{"user_id": "u1", "profile": "jazz"}], {"split": SPLIT, "protocol": "loo-full"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"user_id": "u1", "profile": "jazz"}]
    assert beside(path).name == "d.user_profile.meta.json"
    origin = read_origin(path)
    assert (origin["split"], origin["protocol"]) == (SPLIT, "loo-full")
    assert read_origin(tmp_path / "from_elsewhere.jsonl") == {}


def test_a_description_of_other_lines_is_refused(tmp_path: Path):
    path = tmp_path / "d.user_profile.jsonl"
    write_derived(path, [{"user_id": "u1", "profile": "jazz"}], {"split": SPLIT})
    path.write_text(path.read_text().replace("jazz", "rock"))
    with pytest.raises(DataError, match="has changed since d.user_profile.meta.json was written"):
        read_origin(path)
    beside(path).write_text('{"split": "x"}')
    with pytest.raises(DataError, match="does not say what d.user_profile.jsonl was made from"):
        read_origin(path)


def test_check_split_names_both_and_the_way_out():
    check_split("x", {"split": SPLIT, "protocol": "loo-full"}, SPLIT, "loo-full")
    check_split("x", {"encoder": "e"}, SPLIT, "loo-full")  # says nothing: item texts
    with pytest.raises(SplitMismatchError) as caught:
        check_split("feature 'profile'", {"split": SPLIT, "protocol": "loo-full"}, OTHER, "rs-full")
    said = str(caught.value)
    assert "protocol loo-full, aaaaaaaaaaaa" in said and "protocol rs-full, bbbbbbbbbbbb" in said
    assert "augment --protocol=rs-full" in said and "run with --protocol=loo-full" in said
    with pytest.raises(SplitMismatchError) as caught:  # the same protocol, another seed of the split
        check_split("x", {"split": SPLIT, "protocol": "rs-full"}, OTHER, "rs-full")
    assert "or run with" not in str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_cycle(tmp_path_factory.mktemp("derived"))


def data_of(folder: Path, **changes):
    return build_data(build_config("Pop", "cycle", (), cycle_settings(folder) | changes, ()))


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_feature_loads_under_its_own_split_alone(folder: Path, side: str):
    data = data_of(folder, protocol="loo-full")
    id_field = f"{side}_id"
    tokens = [str(token) for token in data.base.field2id_token[id_field][1:]]
    rows = np.arange(len(tokens) * 2, dtype=np.float32).reshape(-1, 2)
    origin = {"split": data.split.fingerprint, "protocol": "loo-full"}
    save_feature(folder / "cycle" / f"cycle.own_{side}.safetensors", tokens, rows, id_field, origin)
    features = {f"own_{side}": {"side": side}}
    data.config["features"] = features
    assert named_features(data.config, data, [f"own_{side}"])[f"own_{side}"].coverage == 1.0
    for changes in ({"protocol": "rs-full"}, {"protocol": "loo-full", "min_user_inter": 2, "min_rating": 4}):
        other = data_of(folder, features=features, **changes)
        with pytest.raises(SplitMismatchError, match="another split"):
            named_features(other.config, other, [f"own_{side}"])


class TestEdges:
    def write(self, folder: Path, rows: list[dict], data) -> Path:
        path = folder / "cycle.edges.jsonl"
        write_derived(path, rows, {"split": data.split.fingerprint, "protocol": data.config["protocol"]})
        return path

    def test_as_ids(self, folder: Path, tmp_path: Path):
        data = data_of(folder, protocol="loo-full")
        path = self.write(tmp_path, [{"user_id": "u3", "liked": "i5", "disliked": "i7"}], data)
        [[user, liked, disliked]] = load_edges(path, data).tolist()
        users, items = data.base.field2id_token["user_id"], data.base.field2id_token["item_id"]
        assert (users[user], items[liked], items[disliked]) == ("u3", "i5", "i7")
        assert load_edges(self.write(tmp_path, [], data), data).shape == (0, 3)

    def test_under_another_split(self, folder: Path, tmp_path: Path):
        path = self.write(tmp_path, [], data_of(folder, protocol="loo-full"))
        with pytest.raises(SplitMismatchError, match="another split"):
            load_edges(path, data_of(folder, protocol="rs-full"))

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({"user_id": "u3", "liked": "i5"}, "line 1 is no edge"),
            ({"user_id": "nobody", "liked": "i5", "disliked": "i7"}, "line 1 names user_id 'nobody'"),
            ({"user_id": "u3", "liked": "i5", "disliked": "nothing"}, "line 1 names disliked 'nothing'"),
        ],
    )
    def test_wrong_lines(self, folder: Path, tmp_path: Path, row: dict, said: str):
        data = data_of(folder, protocol="loo-full")
        with pytest.raises(DataError, match=said):
            load_edges(self.write(tmp_path, [row], data), data)

    def test_no_file(self, folder: Path, tmp_path: Path):
        with pytest.raises(DataError, match="augment --kind edges"):
            load_edges(tmp_path / "none.jsonl", data_of(folder))
