"""The binary form: the safetensors package as oracle in both directions, and one test per error message."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recbole_llm.data.feature_file import read_feature, save_feature
from recbole_llm.errors import FeatureError

EMBEDDING = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=np.float16)
TOKENS = ["a", "b", "c"]
METADATA = {"id_field": "item_id", "tokens": json.dumps(TOKENS)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_feature(tmp_path / "d.x.safetensors", TOKENS, EMBEDDING, "item_id", {"encoder": "e"})
    return tmp_path / "d.x.safetensors"


@settings(deadline=None, max_examples=50)  # each example waits for the disk
@given(st.data())
def test_save_then_read_is_the_identity(data: st.DataObject):
    dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    elements = st.floats(allow_nan=False, allow_infinity=False, width=8 * np.dtype(dtype).itemsize)
    rows, dim = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    embedding = data.draw(arrays(dtype, (rows, dim), elements=elements))
    texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)
    tokens = data.draw(st.lists(texts, min_size=rows, max_size=rows, unique=True))
    with tempfile.TemporaryDirectory() as folder:
        save_feature(Path(folder) / "d.x.safetensors", tokens, embedding, "user_id", {"encoder": "é"})
        read_tokens, read, metadata = read_feature(Path(folder) / "d.x.safetensors")
        assert read_tokens == tokens
        assert read.dtype == dtype and read.tobytes() == embedding.tobytes()
    assert (metadata["id_field"], metadata["encoder"]) == ("user_id", "é")


def test_the_safetensors_package_reads_our_files(path: Path):
    with safetensors.safe_open(path, framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("embedding"), EMBEDDING, strict=True)
        assert json.loads(file.metadata()["tokens"]) == TOKENS
        assert file.metadata()["id_field"] == "item_id" and file.metadata()["encoder"] == "e"


def test_we_read_the_safetensors_packages_files(tmp_path: Path):
    tensors = {"other": np.zeros(3, np.float64), "embedding": EMBEDDING.astype(np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "d.x.safetensors", METADATA)
    tokens, embedding, metadata = read_feature(tmp_path / "d.x.safetensors")
    np.testing.assert_array_equal(embedding, EMBEDDING.astype(np.float32), strict=True)
    assert tokens == TOKENS and metadata == {"id_field": "item_id"}
    del embedding


def test_rows_are_a_read_only_memory_map(path: Path):
    embedding = read_feature(path)[1]
    assert isinstance(embedding, np.memmap) and not embedding.flags.writeable
    assert embedding.ctypes.data % 8 == 0


def test_same_table_same_bytes(path: Path):
    before = path.read_bytes()
    view = np.asfortranarray(EMBEDDING)[::1]  # another memory layout of the same numbers
    save_feature(path, tuple(TOKENS), view, "item_id", {"encoder": "e"})
    assert path.read_bytes() == before


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path: Path):
    before = path.read_bytes()
    with pytest.raises(FeatureError):
        save_feature(path, TOKENS, EMBEDDING.astype(np.float64), "item_id", {})
    with pytest.raises(TypeError):
        save_feature(path, TOKENS, EMBEDDING, "item_id", {"encoder": object()})
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("tokens", "embedding", "message"),
    [
        (TOKENS, EMBEDDING.astype(np.float64), "the embedding is float64; convert it to float16 or float32"),
        (TOKENS, EMBEDDING[0], r"has shape \[2\]; make it \[rows, dim\]"),
        ([], EMBEDDING[:0], r"has shape \[0, 2\]; make it"),
        (["a", "b"], EMBEDDING, "2 tokens but 3 rows"),
        (["a", "b", "a"], EMBEDDING, "item_id 'a' has more than one row; keep one"),
        (["a", "", "c"], EMBEDDING, "row 2 has an empty item_id"),
        (TOKENS, np.where(EMBEDDING == 4, np.float16(np.nan), EMBEDDING), "row of item_id 'b' holds NaN or infinity"),
        (TOKENS, np.where(EMBEDDING == 5, np.float16(np.inf), EMBEDDING), "row of item_id 'c' holds NaN or infinity"),
    ],
)
def test_save_errors(tmp_path: Path, tokens: list[str], embedding: np.ndarray, message: str):
    with pytest.raises(FeatureError, match=message) as caught:
        save_feature(tmp_path / "d.x.safetensors", tokens, embedding, "item_id", {})
    assert str(tmp_path / "d.x.safetensors") in str(caught.value)
    assert not list(tmp_path.iterdir())


def damage(raw: bytes, how: str) -> bytes:
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    if how == "offsets":  # announces one row more than the bytes hold
        header["embedding"]["shape"][0] += 1
    elif how == "no header":
        header = ["list"]
    elif how == "tokens":
        header["__metadata__"]["tokens"] = "a,b,c"
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: b"", "the file is empty; make it again"),
        (lambda raw: raw[:5], "not a safetensors file"),
        (lambda raw: b"item_id:token\tx:float_seq\n1\t0.5\n", "not a safetensors file"),
        (lambda raw: raw[:8] + b"x" + raw[9:], "not a safetensors file"),
        (lambda raw: raw[:8], "truncated, 8 bytes end within the header"),
        (lambda raw: raw[:50], "truncated, 50 bytes end within the header of"),
        (lambda raw: raw[:-1], "truncated, it has .* bytes and its header announces"),
        (lambda raw: raw + b"\0", "corrupted, it has .* bytes and its header announces"),
        (lambda raw: raw[:9] + b"\xff" + raw[10:], "corrupted, its header is no safetensors header"),
        (lambda raw: damage(raw, "no header"), "not a safetensors file"),
        (lambda raw: damage(raw, "offsets"), r"corrupted, 12 bytes cannot be \[4, 2\] F16"),
        (lambda raw: damage(raw, "tokens"), "corrupted, its tokens are no JSON list"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "corrupted, its rows do not match their checksum"),
    ],
)
def test_damaged_files(path: Path, change, message: str):
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(FeatureError, match=message) as caught:
        read_feature(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"weight": EMBEDDING}, METADATA, "no tensor 'embedding' (found: weight)"),
        ({"embedding": EMBEDDING.astype(np.float64)}, METADATA, "the embedding is F64; only F16 and F32 are read"),
        ({"embedding": EMBEDDING.ravel()}, METADATA, "the embedding has shape [6]"),
        ({"embedding": EMBEDDING[:2]}, METADATA, "3 tokens but 2 rows"),
        ({"embedding": EMBEDDING}, {"id_field": "item_id"}, "the metadata lacks 'tokens'"),
        ({"embedding": EMBEDDING}, {"tokens": METADATA["tokens"]}, "the metadata lacks 'id_field'"),
        ({"embedding": EMBEDDING}, METADATA | {"tokens": "[1, 2, 3]"}, "its tokens are no JSON list of strings"),
        ({"embedding": EMBEDDING}, METADATA | {"tokens": '["a", "b", "b"]'}, "item_id 'b' has more than one row"),
        ({"embedding": EMBEDDING * np.float16(np.nan)}, METADATA, "the row of item_id 'a' holds NaN or infinity"),
    ],
)
def test_foreign_files(tmp_path: Path, tensors: dict, metadata: dict, message: str):
    safetensors.numpy.save_file(tensors, tmp_path / "d.x.safetensors", metadata)
    with pytest.raises(FeatureError) as caught:
        read_feature(tmp_path / "d.x.safetensors")
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_file_that_cannot_be_opened(tmp_path: Path):
    with pytest.raises(FeatureError, match="cannot be read .No such file or directory.; check the path"):
        read_feature(tmp_path / "d.x.safetensors")
