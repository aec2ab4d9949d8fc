"""A converted dataset's files: all or none."""

import json

import pandas as pd
import pytest

from recbole_llm.convert import converted as module
from recbole_llm.convert.converted import Converted
from recbole_llm.data.atomic import read_atomic
from recbole_llm.errors import DataError


def small(name: str = "X", **changes) -> Converted:
    inter = pd.DataFrame([["u", "1", 4.0], ["u", "2", 3.0]], columns=["user_id", "item_id", "rating"])
    item = pd.DataFrame([["1", name]], columns=["item_id", "name"])
    user = pd.DataFrame([["u", "24"]], columns=["user_id", "age"])
    given = {"inter": inter, "item": item, "user": user, "types": {"rating": "float"}} | changes
    return Converted(**given)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_and_summary(tmp_path):
    texts = {"reviews": [{"review_id": "r", "review": "é"}, {"review_id": "s", "review": ""}]}
    made = small(texts=texts)
    made.write(tmp_path / "new" / "d")
    folder = tmp_path / "new" / "d"
    assert names(folder) == {"d.inter", "d.item", "d.user", "d.reviews.jsonl"} and names(tmp_path / "new") == {"d"}
    assert read_atomic(folder / "d.inter").attrs["types"] == {"user_id": "token", "item_id": "token", "rating": "float"}
    assert json.loads((folder / "d.reviews.jsonl").read_text().split("\n")[0]) == texts["reviews"][0]
    assert folder.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o777
    assert made.summary(folder) == (
        f"wrote {folder}: 1 users, 2 items, 2 interactions; 1 items without a line in .item; "
        "texts in .reviews.jsonl: 1 review"
    )


@pytest.mark.parametrize("there", [False, True])
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, there):
    folder = tmp_path / "d"
    if there:
        small().write(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if there else {}
    with pytest.raises(DataError, match="holds '.t'"):
        small(name="a\tb").write(folder, overwrite=True)
    assert names(tmp_path) == ({"d"} if there else set())
    assert before == ({path.name: path.read_bytes() for path in folder.iterdir()} if there else {})


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(path, frame, types):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_atomic", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small().write(tmp_path / "d")
    assert names(tmp_path) == set()


def test_overwriting(tmp_path):
    folder = tmp_path / "d"
    small(texts={"reviews": [{"review_id": "r", "review": "x"}]}).write(folder)
    (folder / "d.text.safetensors").write_bytes(b"rows")
    with pytest.raises(DataError, match=r"has d.inter already; say --overwrite"):
        small(name="Y").write(folder)
    assert read_atomic(folder / "d.item")["name"][0] == "X"
    small(name="Y", user=None).write(folder, overwrite=True)
    assert read_atomic(folder / "d.item")["name"][0] == "Y"
    assert names(folder) == {"d.inter", "d.item", "d.text.safetensors"}  # what is not of this conversion is gone


def test_a_folder_with_features_alone_is_filled(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "d.text.safetensors").write_bytes(b"rows")
    small().write(tmp_path / "d")
    assert names(tmp_path / "d") == {"d.inter", "d.item", "d.user", "d.text.safetensors"}


def test_repeated_interactions():
    rows = [["u", "1", 4.0], ["u", "2", 3.0], ["u", "1", 5.0]]
    made = small(inter=pd.DataFrame(rows, columns=["user_id", "item_id", "rating"]))
    assert made.inter.values.tolist() == rows[1:] and "1 repeated interactions" in made.summary("d")


def test_what_is_no_dataset():
    with pytest.raises(DataError, match="a line of the source has an empty item_id"):
        small(inter=pd.DataFrame({"user_id": ["u"], "item_id": [""]}))
    with pytest.raises(DataError, match="item_id '1' is described twice"):
        small(item=pd.DataFrame({"item_id": ["1", "1"]}))
