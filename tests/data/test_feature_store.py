"""Feature files: alignment by token, policies, coverage, the configuration block, RecBole as oracle."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data.dataset import Dataset

from recbole_llm.data.feature_store import AlignedFeature, FeatureTable, load_features, open_feature, save_feature
from recbole_llm.errors import ConfigError, FeatureError, MissingFeatureError

TOKENS = ["[PAD]", "i3", "i1", "i2"]
ROWS = {"i1": [1.0, 2.0], "i2": [3.0, 4.0], "i3": [5.0, 9.0], "i9": [7.0, 7.0]}  # the dataset does not know i9


def table(rows: dict[str, list[float]], dtype: type = np.float32) -> FeatureTable:
    return FeatureTable(Path("d.x"), "x", "item_id", list(rows), np.array(list(rows.values()), dtype=dtype), {})


def save(path: Path, rows: dict[str, list[float]], id_field: str = "item_id", dtype: type = np.float32) -> Path:
    save_feature(path, list(rows), np.array(list(rows.values()), dtype=dtype), id_field, {"encoder": "e"})
    return path


def write_text(path: Path, rows: dict[str, list[float]], id_field: str = "item_id") -> Path:
    lines = [f"{token}\t{' '.join(map(repr, row))}" for token, row in rows.items()]
    path.write_text("\n".join([f"{id_field}:token\temb:float_seq", *lines]) + "\n")
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_align_matches_by_token_and_ignores_unknown_tokens(dtype: type):
    aligned = table(ROWS, dtype).align(TOKENS)
    assert aligned.matrix.tolist() == [[0, 0], [5, 9], [1, 2], [3, 4]]
    assert aligned.matrix.dtype == np.float32
    assert aligned.present.tolist() == [False, True, True, True]
    assert (aligned.dim, aligned.coverage) == (2, 1.0)


@settings(deadline=None)
@given(st.data())
@pytest.mark.slow
def test_align_after_shuffle_is_align(data: st.DataObject):
    tokens = data.draw(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=20, unique=True))
    rows = {token: [float(row), -float(row)] for row, token in enumerate(tokens)}
    shuffled = {token: rows[token] for token in data.draw(st.permutations(tokens))}
    wanted = ["[PAD]", *data.draw(st.permutations(tokens)), "absent token"]
    policy = data.draw(st.sampled_from(["zero", "mean", "learned"]))
    dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    one, other = table(rows, dtype).align(wanted, policy), table(shuffled, dtype).align(wanted, policy)
    np.testing.assert_array_equal(one.matrix, other.matrix)
    np.testing.assert_array_equal(one.present, other.present)
    assert one.fingerprint == other.fingerprint
    for position, token in enumerate(wanted[1:-1], start=1):
        assert one.matrix[position].tolist() == rows[token]


@pytest.mark.parametrize(
    ("policy", "row"), [("zero", [0.0, 0.0]), ("mean", [(1 + 5) / 2, (2 + 9) / 2]), ("learned", [0.0, 0.0])]
)
def test_missing_policies(policy: str, row: list[float]):
    rows = {token: ROWS[token] for token in ("i1", "i3", "i9")}  # i9 must not enter the mean
    aligned = table(rows).align(TOKENS, policy)
    assert aligned.matrix.tolist() == [[0, 0], [5, 9], [1, 2], row]
    assert aligned.present.tolist() == [False, True, True, False]
    assert aligned.coverage == pytest.approx(2 / 3)
    assert aligned.metadata["missing"] == policy


def test_missing_error_says_how_many_an_example_the_file_and_the_way_out():
    message = r"^2 of 3 items have no row in d\.x \(e\.g\. 'i3'\); encode them, or set missing: zero, mean or learned"
    with pytest.raises(MissingFeatureError, match=message):
        table({"i1": [1.0]}).align(TOKENS)


def test_no_match_at_all_is_an_error_under_every_policy():
    with pytest.raises(FeatureError, match=r"none of the 3 items has a row in d\.x .*'i3', the file 'u1'"):
        table({"u1": [1.0]}).align(TOKENS, "learned")


def test_unknown_policy():
    with pytest.raises(ConfigError, match="missing is 'zeros'; choose from error, zero, mean, learned"):
        table(ROWS).align(TOKENS, "zeros")


@pytest.mark.parametrize("tokens", [["i1", "i2"], []])
def test_tokens_without_pad_are_refused(tokens: list[str]):
    with pytest.raises(ValueError, match=r"the first of them '\[PAD\]'"):
        table(ROWS).align(tokens)


def test_coverage_line():
    present = np.ones(1683, dtype=bool)
    present[[0, *range(1, 24)]] = False
    counts = np.full(1683, 100)
    counts[1:24] = 50
    counts[0] = 500  # interactions that name no row, such as those without a review
    aligned = AlignedFeature("content", "item_id", np.zeros((1683, 2), np.float32), present)
    assert aligned.coverage_line() == "content: 1659/1682 items, 98.6 %"
    share = 1659 * 100 / (1659 * 100 + 23 * 50 + 500)
    assert aligned.coverage_line(counts) == f"content: 1659/1682 items, 98.6 %, {100 * share:.1f} % of interactions"
    with pytest.raises(ValueError, match="interaction_counts has shape"):
        aligned.coverage_line(counts[1:])


def test_what_is_said_of_a_feature_stays_when_its_rows_are_released():
    present = np.array([False, True, False])
    feature = AlignedFeature("content", "item_id", np.ones((3, 2), np.float32), present, {"encoder": "e"})
    released = feature.released()
    assert released.matrix.shape == (0, 2) and released.matrix.base is None  # a view would keep the rows
    for name in ("name", "id_field", "dim", "coverage", "fingerprint", "metadata", "side"):
        assert getattr(released, name) == getattr(feature, name)
    assert released.coverage_line() == feature.coverage_line()


def test_fingerprint_tells_rows_and_presence_apart():
    base = table(ROWS).align(TOKENS)
    other_row = table(ROWS | {"i2": [3.0, 4.5]}).align(TOKENS)
    zero_row = table(ROWS | {"i2": [0.0, 0.0]}).align(TOKENS)
    no_row = table({token: row for token, row in ROWS.items() if token != "i2"}).align(TOKENS, "zero")
    unused_row = table(ROWS | {"i9": [0.0, 1.0]}).align(TOKENS)
    assert len({base.fingerprint, other_row.fingerprint, zero_row.fingerprint, no_row.fingerprint}) == 4
    assert unused_row.fingerprint == base.fingerprint


@pytest.mark.parametrize("file", ["d.emb", "d.emb.safetensors"])
def test_both_forms_open_alike(tmp_path: Path, file: str):
    (write_text if file == "d.emb" else save)(tmp_path / file, ROWS)
    opened = open_feature(tmp_path / file, id_field="item_id")
    assert (opened.name, opened.id_field, list(opened.tokens)) == ("emb", "item_id", list(ROWS))
    assert opened.embedding.tolist() == list(ROWS.values())
    assert isinstance(opened.embedding, np.memmap) and not opened.embedding.flags.writeable


@pytest.mark.parametrize("file", ["d.emb", "d.emb.safetensors"])
def test_wrong_id_field(tmp_path: Path, file: str):
    (write_text if file == "d.emb" else save)(tmp_path / file, ROWS, "user_id")
    with pytest.raises(FeatureError, match="belong to 'user_id', not to 'item_id'.*side"):
        open_feature(tmp_path / file, id_field="item_id")


def test_no_such_file_names_near_ones(tmp_path: Path):
    save(tmp_path / "d.content.safetensors", ROWS)
    with pytest.raises(FeatureError, match=r"no such feature file \(did you mean 'd\.content\.safetensors'\?\)"):
        open_feature(tmp_path / "d.contents.safetensors", id_field="item_id")


def recbole_dataset(root: Path, **settings: object) -> Dataset:
    base = {"data_path": str(root), "show_progress": False, "load_col": {"inter": ["user_id", "item_id"]}}
    return Dataset(Config(model="BPR", dataset="tiny", config_dict=base | settings))


def test_agrees_with_recboles_loader_and_makes_no_phantom_items(tmp_path: Path, tiny_dataset):
    root = tiny_dataset(tmp_path)
    plain = recbole_dataset(root)
    used = sorted(plain.field2id_token["item_id"][1:])
    rng = np.random.default_rng(3)
    rows = {token: rng.standard_normal(5).tolist() for token in rng.permutation([*used, "ghost"])}
    path = write_text(root / "tiny" / "tiny.emb", rows, "iid")
    theirs = recbole_dataset(
        root,
        additional_feat_suffix=["emb"],
        load_col={"inter": ["user_id", "item_id"], "emb": ["iid", "emb"]},
        alias_of_item_id=["iid"],
        preload_weight={"iid": "emb"},
    )
    path.write_text(path.read_text().replace("iid:token", "item_id:token"))
    aligned = open_feature(path, id_field="item_id").align(plain.field2id_token["item_id"])
    weights, tokens = theirs.get_preload_weight("iid"), theirs.field2id_token["item_id"]
    assert theirs.item_num == plain.item_num + 1  # RecBole takes the ghost for an item
    assert len(aligned.matrix) == plain.item_num
    for position, token in enumerate(plain.field2id_token["item_id"]):
        np.testing.assert_allclose(aligned.matrix[position], weights[list(tokens).index(token)], rtol=1e-6)


def test_load_features_of_both_sides(tmp_path: Path):
    near, far = tmp_path / "near", tmp_path / "far"
    save(far / "d.a.safetensors", {"i1": [0.0]})
    save(near / "d.a.safetensors", {"i1": [1.0], "i2": [2.0], "i3": [3.0]})
    far.mkdir(exist_ok=True)
    write_text(far / "d.b", {"i3": [3.0]})
    save(far / "tastes.safetensors", {"u1": [8.0]}, "user_id")
    tokens = {"item_id": TOKENS, "user_id": ["[PAD]", "u1"]}
    specs = {
        "a": {},
        "b": {"missing": "learned"},
        "taste": {"file": "tastes.safetensors", "side": "user"},
        "taste2": {"file": str(far / "tastes.safetensors"), "side": "user"},
        "off": None,
    }
    loaded = load_features(specs, [near, far], "d", tokens)
    assert list(loaded) == ["a", "b", "taste", "taste2"]
    assert loaded["a"].matrix.tolist() == [[0], [3], [1], [2]]
    assert loaded["b"].present.tolist() == [False, True, False, False]
    assert loaded["taste"].matrix.tolist() == loaded["taste2"].matrix.tolist() == [[0], [8]]
    assert (loaded["taste"].name, loaded["taste"].id_field, loaded["taste"].side) == ("taste", "user_id", "user")
    assert loaded["taste"].coverage_line() == "taste: 1/1 users, 100.0 %"
    assert loaded["taste"].metadata["encoder"] == "e"


def test_load_features_of_a_dataset_with_other_id_fields(tmp_path: Path):
    save(tmp_path / "d.a.safetensors", ROWS)
    tokens, fields = {"asin": TOKENS}, {"item": "asin"}
    with pytest.raises(FeatureError, match="belong to 'item_id', not to 'asin'; set the feature's side or id_field"):
        load_features({"a": {}}, [tmp_path], "d", tokens, id_fields=fields)
    loaded = load_features({"a": {"id_field": "item_id"}}, [tmp_path], "d", tokens, id_fields=fields)
    assert loaded["a"].id_field == "asin" and loaded["a"].matrix[1].tolist() == [5, 9]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"mising": "zero"}, ConfigError, "feature 'a' has no setting 'mising'; did you mean 'missing'?"),
        ({"xyz": 1}, ConfigError, "feature 'a' has no setting 'xyz'; choose from file, side, missing, id_field"),
        ({"side": "items"}, ConfigError, "side is 'items'; choose from item, user"),
        ({"missing": "drop"}, ConfigError, "missing is 'drop'; choose from error, zero, mean, learned"),
        ({"side": "user"}, ConfigError, "the dataset has no user ids 'user_id' (it has item_id)"),
        ("a.safetensors", ConfigError, "its settings are 'a.safetensors'; write them as keys"),
        ({"file": "d.contnt.safetensors"}, FeatureError, "(did you mean 'd.content.safetensors'?)"),
        ({}, FeatureError, "found no file; looked for"),
    ],
)
def test_load_features_errors(tmp_path: Path, spec: object, error: type, message: str):
    save(tmp_path / "d.content.safetensors", ROWS)
    with pytest.raises(error) as caught:
        load_features({"a": spec}, [tmp_path], "d", {"item_id": TOKENS})
    assert message in str(caught.value)


def test_load_features_lists_every_place_it_looked(tmp_path: Path):
    with pytest.raises(FeatureError) as caught:
        load_features({"a": {}}, [tmp_path / "x", tmp_path / "y"], "d", {"item_id": TOKENS})
    for folder in ("x", "y"):
        for name in ("d.a.safetensors", "d.a"):
            assert str(tmp_path / folder / name) in str(caught.value)
