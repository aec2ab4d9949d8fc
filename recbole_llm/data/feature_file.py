"""The binary form of an embedding feature: one .safetensors file, written atomically, read through a memory map.

The safetensors format (https://github.com/huggingface/safetensors#format) is an 8-byte little-endian header length,
a JSON header and the raw tensors. Header and tensors are read and written here rather than through the safetensors
package because its writer orders metadata differently from run to run (the same table would not give the same bytes)
and its NumPy reader copies a tensor instead of mapping it. The package reads these files, and is the tests' oracle.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import FeatureError

_DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_REMAKE = "make it again with 'recbole-llm encode' or fetch it again"
_BLOCK_ROWS = 2048  # rows checked, summed or converted at a time: bounds the memory beside the table itself
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit; also tells a foreign file from a safetensors one


def check_rows(path: Path | str, tokens: Sequence[str], embedding: np.ndarray, id_field: str) -> None:
    """Raise FeatureError where a table cannot be a feature: shape, count, duplicate or empty token, row not finite."""
    if embedding.ndim != 2 or 0 in embedding.shape:
        raise FeatureError(f"{path}: the embedding has shape {list(embedding.shape)}; make it [rows, dim], both >= 1")
    _check_tokens(path, tokens, len(embedding), id_field)
    for start in range(0, len(embedding), _BLOCK_ROWS):
        finite = np.isfinite(embedding[start : start + _BLOCK_ROWS]).all(axis=1)
        if not finite.all():
            token = tokens[start + int(np.argmin(finite))]
            raise FeatureError(
                f"{path}: the row of {id_field} '{token}' holds NaN or infinity; encode it again, or drop the row and "
                "set missing: zero, mean or learned"
            )


def _check_tokens(path: Path | str, tokens: Sequence[str], n_rows: int, id_field: str) -> None:
    if len(tokens) != n_rows:
        raise FeatureError(f"{path}: {len(tokens)} tokens but {n_rows} rows; {_REMAKE}")
    distinct = set(tokens)
    if len(distinct) != len(tokens):
        seen: set[str] = set()
        token = next(t for t in tokens if t in seen or seen.add(t))
        raise FeatureError(f"{path}: {id_field} '{token}' has more than one row; keep one row per token")
    if "" in distinct:
        row = list(tokens).index("") + 1
        raise FeatureError(f"{path}: row {row} has an empty {id_field}; give it a token or drop it")


def _crc32(embedding: np.ndarray) -> str:
    value = 0
    for start in range(0, len(embedding), _BLOCK_ROWS):
        value = zlib.crc32(np.ascontiguousarray(embedding[start : start + _BLOCK_ROWS]), value)
    return f"{value:08x}"


def save_feature(
    path: Path | str, tokens: Sequence[str], embedding: np.ndarray, id_field: str, metadata: Mapping[str, str]
) -> None:
    """Write a feature table as .safetensors, atomically; the same arguments give the same bytes.

    The tokens are kept in the metadata as one JSON list, beside a CRC-32 of the rows that ``read_feature`` verifies.

    Args:
        path: file to write, ``<dataset>.<feature>.safetensors``; its folder is made.
        tokens: external ids, one a row, unique.
        embedding: [n, F] float16 or float32, finite. Other dtypes are refused, so that rounding is the caller's choice.
        id_field: field that the tokens belong to, ``item_id`` or ``user_id`` in most of RecBole's data sets.
        metadata: provenance, for example encoder, revision, pooling, text_sha256.
    Raises:
        FeatureError: wrong shape or dtype, token count, duplicate token, or a row that is not finite.
    """
    path = Path(path)
    names = {dtype: name for name, dtype in _DTYPES.items()}
    if embedding.dtype not in names:
        raise FeatureError(f"{path}: the embedding is {embedding.dtype}; convert it to float16 or float32 first")
    tokens = [str(token) for token in tokens]
    check_rows(path, tokens, embedding, id_field)
    own = {"crc32": _crc32(embedding), "id_field": id_field, "tokens": json.dumps(tokens)}
    header = {
        "__metadata__": dict(sorted(metadata.items())) | own,
        "embedding": {
            "dtype": names[embedding.dtype],
            "shape": list(embedding.shape),
            "data_offsets": [0, embedding.nbytes],
        },
    }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)  # the format aligns the tensors to 8 bytes, as a memory map needs
    with atomic_writer(path) as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for start in range(0, len(embedding), _BLOCK_ROWS):
            file.write(np.ascontiguousarray(embedding[start : start + _BLOCK_ROWS]).data)


def read_feature(path: Path | str, verify: bool = True) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Open a feature table; the rows stay on disk, mapped into memory.

    Args:
        path: a file of ``save_feature``, or any safetensors file with ``embedding`` and the metadata ``id_field`` and
            ``tokens`` (a JSON list of strings).
        verify: read every row once to check it; False trusts rows that this program wrote and nobody else touches.
    Returns:
        tokens in row order, rows as a read-only memory map [n, F] float16 or float32, the metadata without the tokens.
    Raises:
        FeatureError: no such file, or it is empty, truncated, corrupted, no safetensors file, or holds no valid table.
    """
    path = Path(path)
    header, data_start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    info = header.get("embedding")
    if info is None:
        raise FeatureError(f"{path}: no tensor 'embedding' (found: {', '.join(header) or 'none'}); save the rows as it")
    dtype, shape = _DTYPES.get(info["dtype"]), tuple(info["shape"])
    if dtype is None:
        raise FeatureError(f"{path}: the embedding is {info['dtype']}; only F16 and F32 are read, convert it first")
    if len(shape) != 2 or 0 in shape:
        raise FeatureError(f"{path}: the embedding has shape {list(shape)}; make it [rows, dim], both >= 1")
    begin, end = info["data_offsets"]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise FeatureError(f"{path}: corrupted, {end - begin} bytes cannot be {list(shape)} {info['dtype']}; {_REMAKE}")
    for key in ("id_field", "tokens"):
        if key not in metadata:
            raise FeatureError(f"{path}: the metadata lacks '{key}'; write the file with 'recbole-llm encode'")
    try:
        tokens = json.loads(metadata.pop("tokens"))
    except json.JSONDecodeError as error:
        raise FeatureError(f"{path}: corrupted, its tokens are no JSON list ({error.msg}); {_REMAKE}") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise FeatureError(f"{path}: its tokens are no JSON list of strings; {_REMAKE}")
    embedding = np.memmap(path, dtype=dtype, mode="r", offset=data_start + begin, shape=shape)
    _check_tokens(path, tokens, len(embedding), metadata["id_field"])
    if verify and "crc32" not in metadata:  # a foreign file: nobody has looked at its rows yet
        check_rows(path, tokens, embedding, metadata["id_field"])
    elif verify and _crc32(embedding) != metadata["crc32"]:
        raise FeatureError(f"{path}: corrupted, its rows do not match their checksum; {_REMAKE}")
    return tokens, embedding, metadata


def _read_header(path: Path) -> tuple[dict, int]:
    """Header of a safetensors file and the byte at which its tensors start."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(min(length, _MAX_HEADER_BYTES))
    except OSError as error:
        raise FeatureError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if size == 0:
        raise FeatureError(f"{path}: the file is empty; {_REMAKE}")
    if size < 8 or length > _MAX_HEADER_BYTES or raw[:1] not in (b"{", b""):
        raise FeatureError(f"{path}: not a safetensors file; {_REMAKE}")
    if len(raw) < length:
        raise FeatureError(f"{path}: truncated, {size} bytes end within the header of {length} bytes; {_REMAKE}")
    try:
        header = json.loads(raw)
        ends = [info["data_offsets"][1] for name, info in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise FeatureError(f"{path}: corrupted, its header is no safetensors header; {_REMAKE}") from None
    if size != expected:
        what = "truncated" if size < expected else "corrupted"
        raise FeatureError(f"{path}: {what}, it has {size} bytes and its header announces {expected}; {_REMAKE}")
    return header, 8 + length
