"""Atomic files: a table written out, RecBole's own loader as oracle, write then read as the identity, every error."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data.dataset import Dataset

from recbole_llm.data.atomic import read_atomic, read_types, write_atomic
from recbole_llm.errors import DataError

TYPES = {"item_id": "token", "year": "float", "class": "token_seq", "emb": "float_seq"}
TABLE = "item_id:token\tyear:float\tclass:token_seq\temb:float_seq\n007\t1995\tComedy War\t0.5 -1e-3\nNA\t\t\t\n"

# what an atomic file can hold: no separator, no line break
_token = st.text(st.characters(blacklist_characters="\t\n\r\0", blacklist_categories=["Cs"]), max_size=8)
_word = st.text(st.characters(blacklist_characters="\t\n\r\0 ", blacklist_categories=["Cs"]), min_size=1, max_size=8)
_number = st.floats(allow_nan=False)
_rows = st.lists(st.tuples(_token, st.floats(), st.lists(_word, max_size=3), st.lists(_number, max_size=3)), max_size=6)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_reads_the_four_types(tmp_path: Path):
    frame = read_atomic(write(tmp_path / "d.item", TABLE))
    assert frame.attrs["types"] == read_types(tmp_path / "d.item") == TYPES
    assert frame["item_id"].tolist() == ["007", "NA"]  # a number stays text, "NA" stays a token
    assert frame["year"].dtype == np.float64 and frame["year"][0] == 1995 and math.isnan(frame["year"][1])
    assert frame["class"].tolist() == [["Comedy", "War"], []]
    assert [row.tolist() for row in frame["emb"]] == [[0.5, -0.001], []]


def test_reads_windows_line_breaks_and_a_last_line_without_one(tmp_path: Path):
    frame = read_atomic(write(tmp_path / "d.item", "item_id:token\tyear:float\r\n1\t5\r\n2\t6"))
    assert frame["item_id"].tolist() == ["1", "2"] and frame["year"].tolist() == [5, 6]


def test_writes_the_bytes_that_were_read(tmp_path: Path):
    frame = read_atomic(write(tmp_path / "d.item", TABLE))
    write_atomic(tmp_path / "copy.item", frame)
    assert (tmp_path / "copy.item").read_text() == TABLE.replace("1995", "1995.0").replace("-1e-3", "-0.001")


@settings(deadline=None, max_examples=50)  # each example waits for the disk
@given(_rows)
def test_write_then_read_is_the_identity(rows: list):
    columns = zip(*rows, strict=True) if rows else [[]] * len(TYPES)
    frame = pd.DataFrame(dict(zip(TYPES, columns, strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(folder) / "d.item", frame, TYPES)
        back = read_atomic(Path(folder) / "d.item")
    assert back["item_id"].tolist() == [row[0] for row in rows]
    np.testing.assert_array_equal(back["year"].to_numpy(), np.array([row[1] for row in rows], dtype=np.float64))
    assert back["class"].tolist() == [row[2] for row in rows]
    assert [row.tolist() for row in back["emb"]] == [row[3] for row in rows]


def test_agrees_with_recboles_loader(tmp_path: Path, tiny_dataset):
    root = tiny_dataset(tmp_path)
    for suffix in ("inter", "item", "user"):  # rewritten by us, read by RecBole
        write_atomic(root / "tiny" / f"tiny.{suffix}", read_atomic(root / "tiny" / f"tiny.{suffix}"))
    config = {"data_path": str(root), "load_col": None, "show_progress": False}
    theirs = Dataset(Config(model="BPR", dataset="tiny", config_dict=config))
    items = read_atomic(root / "tiny" / "tiny.item").set_index("item_id")
    years, words = theirs.field2id_token["release_year"], theirs.field2id_token["class"]
    for row in range(1, theirs.item_num):
        token, feat = theirs.id2token("item_id", row), theirs.item_feat.loc[row]
        assert items.loc[token, "release_year"] == years[int(feat["release_year"])]
        assert items.loc[token, "class"] == [words[word] for word in feat["class"]]
    ours = read_atomic(root / "tiny" / "tiny.inter")
    assert ours["rating"].tolist() == theirs.inter_feat["rating"].tolist()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = write(tmp_path / "d.item", TABLE)
    with pytest.raises(DataError):
        write_atomic(path, pd.DataFrame({"item_id": ["a\tb"]}), {"item_id": "token"})
    assert path.read_text() == TABLE
    assert [file.name for file in tmp_path.iterdir()] == ["d.item"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such atomic file"),
        (b"", r"column '' of the header is not 'name:type'"),
        (b"item_id\trating:float\n", r"column 'item_id' of the header is not 'name:type' with a type of token, float"),
        (b"item_id:str\n", r"column 'item_id:str'"),
        (b"a:token\ta:float\n", "names column 'a' twice"),
        (b"a:token\tb:float\n1\n", "line 2 has 1 fields, the header 2"),
        (b"a:token\tb:float\n1\t2\n3\t4\t5\n", "line 3 has 3 fields, the header 2"),
        (b"a:token\tb:float\n1\tx\n", "line 2, column 'b': 'x' is not of type float"),
        (b"a:token\tb:float_seq\n1\t0.5 x\n", "line 2, column 'b': '0.5 x' is not of type float_seq"),
        (b"\xff:token\n", "the header is not UTF-8"),
        (b"a:token\n\xff\n", "byte 8 is not UTF-8"),
    ],
)
def test_read_errors(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "d.item"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_atomic(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        (["a\tb"], "token", r"'a\\tb' holds '\\t'"),
        (["a\nb"], "token", r"holds '\\n'"),
        (["a\rb"], "token", r"holds '\\r'"),
        ([["a b"]], "token_seq", "'a b' holds ' '"),
        ([["a", ""]], "token_seq", "holds an empty word"),
        (["a"], "string", "has no field type"),
    ],
)
def test_write_errors(tmp_path: Path, column: list, kind: str, message: str):
    with pytest.raises(DataError, match=message):
        write_atomic(tmp_path / "d.item", pd.DataFrame({"c": column}), {"c": kind})
    assert not list(tmp_path.iterdir())


def test_write_without_types(tmp_path: Path):
    with pytest.raises(DataError, match="column 'c' has no field type"):
        write_atomic(tmp_path / "d.item", pd.DataFrame({"c": ["a"]}))
