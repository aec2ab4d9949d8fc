"""News and impressions in MIND's format: small folders, and a piece of the set."""

import json

import pytest

from recbole_llm.convert.mind import convert
from recbole_llm.data.feature_file import read_feature
from recbole_llm.errors import DataError


def entity(key: str) -> str:
    return json.dumps({"Label": "X", "WikidataId": key, "OccurrenceOffsets": [1]})


NEWS = (
    f"N1\tsports\tgolf\tA title\tAn &amp; abstract\thttps://x\t[{entity('Q1')}]\t[{entity('Q2')}, {entity('Q1')}]\n"
    'N2\tnews\tworld\t"Quoted" title\t\thttps://x\t[]\t\n'
)
# the second line is the earlier one
BEHAVIORS = (
    "1\tU1\t11/13/2019 12:00:10 PM\tN3 N9 N2 N3\tN1-1 N2-0\n"
    "2\tU1\t11/13/2019 12:00:00 PM\tN3 N9\tN2-1 N1-0\n"
    "3\tU2\t11/14/2019 1:00:00 AM\t\tN1-0 N2-0\n"
)
NOON = 1573646400.0


def write(folder, news=NEWS, behaviors=BEHAVIORS, vectors=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "news.tsv").write_text(news)
    (folder / "behaviors.tsv").write_text(behaviors)
    if vectors is not None:
        (folder / "entity_embedding.vec").write_text(vectors)
    return folder


def test_a_part(tmp_path):
    made = convert(write(tmp_path, vectors="Q2\t0.5\t-1\t\nQ7\t0\t0\t\n"))
    assert made.inter.values.tolist() == [
        ["U1", "N3", 1.0, NOON - 2, "", "history"],
        ["U1", "N9", 1.0, NOON - 1, "", "history"],
        ["U1", "N2", 1.0, NOON, "2", "train"],
        ["U1", "N1", 0.0, NOON, "2", "train"],
        # its history adds nothing: N2 was clicked in the impression before
        ["U1", "N1", 1.0, NOON + 10, "1", "train"],
        ["U1", "N2", 0.0, NOON + 10, "1", "train"],
        ["U2", "N1", 0.0, NOON + 46_800, "3", "train"],
        ["U2", "N2", 0.0, NOON + 46_800, "3", "train"],
    ]
    assert made.item.values.tolist() == [
        ["N1", "sports", "golf", "A title", "An & abstract", ["Q1", "Q2"]],
        ["N2", "news", "world", "'Quoted' title", "", []],
    ]
    assert made.kg.values.tolist() == [["N1", "title", "Q1"], ["N1", "abstract", "Q2"], ["N1", "abstract", "Q1"]]
    made.write(tmp_path / "d")
    tokens, rows, metadata = read_feature(tmp_path / "d" / "d.entity.safetensors")
    assert tokens == ["Q2"] and rows.tolist() == [[0.5, -1.0]] and metadata["id_field"] == "entity_id"
    summary = made.summary(tmp_path / "d")
    assert "feature entity: 1 rows; 3 impressions, 2 clicks of histories; 1 vectors of entities that no" in summary


def test_parts_become_one_dataset(tmp_path):
    write(tmp_path / "MINDsmall_train")
    later = "1\tU1\t11/15/2019 12:00:00 PM\tN3 N9 N2 N1 N5\tN6-1 N2-0\n"
    write(tmp_path / "MINDsmall_dev", news=NEWS + "N6\tnews\tworld\tNew\t\thttps://x\t[]\t[]\n", behaviors=later)
    unlabelled = "1\tU1\t11/16/2019 12:00:00 PM\tN3\tN6 N2\n"
    write(tmp_path / "MINDlarge_test", behaviors=unlabelled)
    made = convert(tmp_path)
    assert list(made.item["item_id"]) == ["N1", "N2", "N6"]
    last = made.inter.iloc[-3:]
    assert last[["item_id", "impression_id", "part"]].values.tolist() == [
        ["N5", "", "history"], ["N6", "dev-1", "test"], ["N2", "dev-1", "test"]
    ]  # fmt: skip
    assert set(made.inter["impression_id"]) == {"", "train-1", "train-2", "train-3", "dev-1"}
    assert made.notes[-1] == "2 shown articles without labels left out"


def test_a_part_whose_name_tells_nothing_is_refused(tmp_path):
    write(tmp_path / "monday")
    with pytest.raises(DataError, match="monday is a part whose name says neither train nor dev nor test"):
        convert(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"news": "N1\tsports\tgolf\tA\tB\tC\t[\t[]\n"}, "news.tsv, line 1: the entities of the title are no list"),
        ({"news": 'N1\ts\tg\tA\tB\tC\t[]\t[{"Label": "X"}]\n'}, "line 1: the entities of the abstract are no list"),
        ({"news": "N1\tsports\n"}, "news.tsv, line 1 has 2 fields instead of 8"),
        ({"behaviors": "1\tU1\t2019-11-13\t\tN1-1\n"}, "behaviors.tsv, line 1: '2019-11-13' is no time like"),
        ({"behaviors": BEHAVIORS.replace("N1-1", "N1-2")}, "behaviors.tsv, line 1: 'N1-2' does not end in -0 or -1"),
        ({"vectors": "Q1\t1\t2\nQ2\t1\n"}, "entity_embedding.vec, line 2 is no entity with 2 numbers"),
        ({"vectors": "Q1\t1\tnan\n"}, "entity_embedding.vec, line 1 is no entity with 2 numbers"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, given, message):
    write(tmp_path, **given)
    with pytest.raises(DataError, match=message):
        convert(tmp_path)


def test_a_piece_of_the_set(shared_data, tmp_path):
    made = convert(shared_data / "news-mind-sample")
    shown = made.inter[made.inter["part"] == "train"]
    assert len(shown) == 189_359 and shown["label"].sum() == 7542 and shown["impression_id"].nunique() == 5000
    history = made.inter[made.inter["part"] == "history"]
    assert not history.duplicated(["user_id", "item_id"]).any() and (history["label"] == 1).all()
    first = shown.groupby("user_id")["timestamp"].min()
    assert (history["timestamp"] < history["user_id"].map(first)).all()
    assert len(made.item) == 2000 and set(made.kg["relation_id"]) == {"title", "abstract"}
    assert set(made.kg["head_id"]) <= set(made.link["entity_id"])
