"""Titles of news with entities: a small folder, and the set itself."""

import pytest

from recbole_llm.convert.dkn import convert
from recbole_llm.data.atomic import read_atomic
from recbole_llm.errors import DataError

TRAIN = (
    "7\ttautog bite\t0\t36136:Tautog\n7\ttom cruise\t1\t3410:Tom Cruise;12:A;B\n8\ttautog bite\t1\t36136:Tautog;9:New\n"
)
TEST = "7\tnever seen\t1\t\n7\ttautog bite\t1\t36136:Tautog\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "raw_train.txt").write_text(TRAIN)
    (tmp_path / "raw_test.txt").write_text(TEST)
    return tmp_path


def test_a_small_folder(folder):
    made = convert(folder)
    assert made.inter.values.tolist() == [
        ["7", "n1", 0.0, "train"],
        ["7", "n2", 1.0, "train"],
        ["8", "n1", 1.0, "train"],
        ["7", "n3", 1.0, "test"],
        ["7", "n1", 1.0, "test"],  # the same pair again: shown again
    ]
    # a name may hold a semicolon; entities that later lines add to an article are its own too
    assert made.item.values.tolist() == [
        ["n1", "tautog bite", ["e36136", "e9"]],
        ["n2", "tom cruise", ["e3410", "e12"]],
        ["n3", "never seen", []],
    ]
    made.write(folder / "d")
    assert read_atomic(folder / "d" / "d.kg").values.tolist() == [
        ["n1", "mentions", "e36136"], ["n1", "mentions", "e9"], ["n2", "mentions", "e3410"], ["n2", "mentions", "e12"]
    ]  # fmt: skip
    assert read_atomic(folder / "d" / "d.link").values.tolist() == [[f"n{k}", f"n{k}"] for k in (1, 2, 3)]
    assert "4 triples between 6 entities; 1 rows of pairs that came before" in made.summary(folder / "d")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("raw_train.txt", "7\tx\t2\t1:A\n", "raw_train.txt, line 1: the label '2' is neither 0 nor 1"),
        ("raw_train.txt", "7\tx\t1\n", "raw_train.txt, line 1 has 3 fields instead of 4"),
        ("raw_test.txt", "7\tx\t1\tTautog\n", "raw_test.txt, line 1: the entities 'Tautog' are not of the form"),
        ("raw_test.txt", None, "has no file raw_test.txt"),
    ],
)
def test_what_is_wrong_is_named(folder, name, content, message):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        convert(folder)


def test_the_set_itself(shared_data):
    made = convert(shared_data / "news-dkn")
    parts = dict(iter(made.inter.groupby("part")))
    assert len(parts["train"]) == 10_401 and len(parts["test"]) == 462 and parts["test"]["label"].sum() == 271
    assert not set(parts["test"]["item_id"]) & set(parts["train"]["item_id"])  # every title of the test is unseen
    assert set(parts["test"]["user_id"]) <= set(parts["train"]["user_id"])
    assert len(made.item) == 8668 + 407 and made.item["entities"].map(bool).all()
    assert made.kg["tail_id"].nunique() == 3532 + 369 - 125
