"""The text form: Python's float as oracle, irregular white space, and one test per error message."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.data import feature_text
from recbole_llm.data.feature_store import open_feature
from recbole_llm.data.feature_text import file_digest, parse_feature_text
from recbole_llm.errors import FeatureError

HEADER = "item_id:token\temb:float_seq\n"


def parse(folder: Path, content: str | bytes) -> feature_text.TextTable:
    path = Path(folder) / "d.emb"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return parse_feature_text(path, "item_id")


@settings(deadline=None, max_examples=50)  # each example waits for the disk
@given(st.data())
def test_numbers_are_those_of_float(data: st.DataObject):
    dim = data.draw(st.integers(1, 4))
    token = st.text(st.characters(blacklist_characters="\t\n\r", blacklist_categories=["Cs"]), min_size=1, max_size=5)
    tokens = data.draw(st.lists(token, min_size=1, max_size=6, unique=True))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    rows = [data.draw(st.lists(number, min_size=dim, max_size=dim)) for _ in tokens]
    gap, end = data.draw(st.sampled_from([" ", "  "])), data.draw(st.sampled_from(["\n", " \n", "\r\n"]))
    form = data.draw(st.sampled_from([repr, "{:.9e}".format, "{:+.9g}".format]))
    lines = [f"{token}\t{gap.join(map(form, row))}" for token, row in zip(tokens, rows, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        table = parse(Path(folder), HEADER + end.join(lines) + data.draw(st.sampled_from(["", end])))
    assert table.tokens == tokens
    np.testing.assert_array_equal(table.embedding, np.array(rows, dtype=np.float32), strict=True)


def test_many_blocks_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feature_text, "_BLOCK_BYTES", 64)
    rows = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    lines = [f"t{n}\t{' '.join(map(repr, row))}\n" for n, row in enumerate(rows.tolist())]
    table = parse(tmp_path, HEADER + "".join(lines))
    assert table.tokens == [f"t{n}" for n in range(300)]
    np.testing.assert_array_equal(table.embedding, rows, strict=True)


def test_regular_rows_take_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slow = []
    parse_rows = feature_text._parse_rows

    def noted(path: Path, block: bytes, dim: int | None):
        slow.append(block)
        return parse_rows(path, block, dim)

    monkeypatch.setattr(feature_text, "_parse_rows", noted)
    parse(tmp_path, HEADER + "é\t1 2\n2\t3 4\n")
    parse(tmp_path, HEADER + "1\t1  2 \r\n2\t3 4\r\n")
    assert all(b"\n" not in block for block in slow)  # only the first line, for its length
    parse(tmp_path, HEADER + "a token\t1 2\n2\t3 4\n")
    assert b"a token\t1 2\n2\t3 4" in slow


def test_digest_is_that_of_the_file(tmp_path: Path):
    content = (HEADER + "1\t1  2 \n").encode()
    digest = hashlib.blake2b(content, digest_size=32).hexdigest()
    assert parse(tmp_path, content).digest == file_digest(tmp_path / "d.emb") == digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty; its first line must be 'item_id:token<TAB>name:float_seq'"),
        (HEADER, "a header and no rows; add one row per token"),
        ("1\t0.5 0.5\n", "the header is '1\\t0.5 0.5'; it must be 'item_id:token<TAB>name:float_seq'"),
        ("item_id:token\temb:token_seq\n1\ta\n", "the header is 'item_id:token\\temb:token_seq'; it must be"),
        ("item_id:token\ta:float_seq\tb:float_seq\n", "it must be 'item_id:token<TAB>name:float_seq'"),
        ("user_id:token\temb:float_seq\n1\t1\n", "its rows belong to 'user_id', not to 'item_id'; correct the header"),
        (HEADER + "1\t1 2\n2\t3\n", "the row of '2' has 1 numbers, the first row 2; give every row as many"),
        (HEADER + "1\t1 2\n2\t3 4 5\n", "the row of '2' has 3 numbers, the first row 2"),
        (HEADER + "1\t1 2 3\n2\t1 2\n3\t1 2 3 4\n", "the row of '2' has 2 numbers, the first row 3"),
        (HEADER + "1\t\n", "the row of '1' has 0 numbers"),
        (HEADER + "1\t1 2\n2\t3 x4\n", "the row of '2' holds 'x4', which is no number; correct the row"),
        (HEADER + "1\t1 2\n2\n", "the row '2' has no tab between token and numbers"),
        (HEADER + "1\t1\n2 3\n", "the row '2 3' has no tab between token and numbers"),
        (HEADER + "1\t1 2\n\n2\t3 4\n", "the row '' has no tab between token and numbers"),
        (HEADER.encode() + b"1\t1 2\n\xff\t3 4\n", "byte 0xff is not UTF-8; convert the file to UTF-8"),
        (HEADER + "1\t1 2\n2\t3 4\n1\t5 6\n", "item_id '1' has more than one row; keep one row per token"),
        (HEADER + "1\t1 2\n\t3 4\n", "row 2 has an empty item_id"),
        (HEADER + "1\t1 2\n2\t3 nan\n", "the row of item_id '2' holds NaN or infinity"),
        (HEADER + "1\t1 2\n2\t3 1e39\n", "the row of item_id '2' holds NaN or infinity"),
    ],
)
def test_errors(tmp_path: Path, content: str | bytes, message: str):
    path = tmp_path / "d.emb"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FeatureError) as caught:
        open_feature(path, id_field="item_id")
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["d.emb"]  # no conversion of a bad file
