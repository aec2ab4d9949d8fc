"""The store of encoded rows: what is put comes back, whoever else writes."""

import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from recbole_llm.encoding.store import RowStore, row_keys
from recbole_llm.errors import DataError

WRITER = """
import sys
import numpy as np
from recbole_llm.encoding.store import RowStore, row_keys
with RowStore(sys.argv[1]) as store:
    for start in range(int(sys.argv[2]), int(sys.argv[3]), 5):
        names = [str(k) for k in range(start, start + 5)]
        store.put(row_keys({}, names), np.array([[k, k + 0.5] for k in range(start, start + 5)], dtype=np.float32))
"""


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_come_back_to_the_bit(tmp_path, dtype):
    rows = np.random.default_rng(0).standard_normal((1203, 7)).astype(dtype)
    keys = row_keys({"encoder": "e"}, map(str, range(1203)))
    with RowStore(tmp_path / "s") as store:
        store.put(keys, rows)
    with RowStore(tmp_path / "s") as store:
        found = store.get(keys[::-1])
        assert store.missing([*keys, b"other"]) == {b"other"}
    assert len(found) == 1203
    for key, row in zip(keys, rows, strict=True):
        assert found[key].dtype == dtype and np.array_equal(found[key], row)


def test_a_key_depends_on_all_that_a_row_depends_on():
    identity = {"encoder": "e", "revision": "1", "pooling": "mean", "dtype": "float16"}
    others = [identity | {key: "other"} for key in identity]
    keys = {row_keys(i, ["text"])[0] for i in (identity, *others)} | {row_keys(identity, ["text 2"])[0]}
    assert len(keys) == 6
    assert row_keys(identity, ["text"]) == row_keys(dict(reversed(identity.items())), ["text"])


def test_a_row_that_is_there_stays(tmp_path):
    with RowStore(tmp_path / "s") as store:
        store.put([b"k"], np.ones((1, 2), dtype=np.float32))
        store.put([b"k"], np.zeros((1, 2), dtype=np.float32))
        assert store.get([b"k"])[b"k"].tolist() == [1, 1]


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path):
    with RowStore(tmp_path / "s") as store:
        with pytest.raises(ValueError):
            store.put([b"a", b"b", b"c"], np.ones((2, 2), dtype=np.float32))
        assert store.missing([b"a", b"b", b"c"]) == {b"a", b"b", b"c"}
        store.put([b"a"], np.ones((1, 2), dtype=np.float32))  # the lock is free again


def test_two_processes_write_to_one_store(tmp_path):
    path = tmp_path / "s"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(start), str(stop)])
        for start, stop in ((0, 400), (200, 600))
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    keys = row_keys({}, map(str, range(600)))
    with RowStore(path) as store:
        found = store.get(keys)
    assert [found[key].tolist() for key in keys] == [[k, k + 0.5] for k in range(600)]


def test_another_database_is_no_store(tmp_path):
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE rows (a TEXT)")
    with pytest.raises(DataError, match="is no store of encoded rows"):
        RowStore(tmp_path / "other")


def test_what_is_no_store_is_named(tmp_path):
    (tmp_path / "s").write_bytes(b"something else entirely, and long enough" * 20)
    with pytest.raises(DataError, match="is no store of encoded rows"):
        RowStore(tmp_path / "s")
