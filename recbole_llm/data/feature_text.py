"""The text form of an embedding feature: RecBole's suffix file ``<dataset>.<feature>``, parsed in blocks.

The header is ``item_id:token<TAB><feature>:float_seq`` (users: ``user_id:token``), the numbers are separated by spaces.
"""

import collections
import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_llm.errors import FeatureError

_BLOCK_BYTES = 1 << 22  # text parsed at a time
_MAX_WORKERS = 4
_TAB, _NEWLINE, _SPACE = 9, 10, 32


class TextTable(NamedTuple):
    """A parsed text feature: tokens in file order, rows [n, F] float32, BLAKE2b digest of the very bytes parsed."""

    tokens: list[str]
    embedding: np.ndarray
    digest: str


def parse_feature_text(path: Path, id_field: str) -> TextTable:
    """Parse a text feature file; blocks of 4 MiB are parsed by a few threads while the next ones are read.

    The peak memory is the table itself plus a few blocks.

    Args:
        path: the suffix file, UTF-8.
        id_field: the field that its first column must be.
    Returns:
        The table; values are parsed to the nearest float32.
    Raises:
        FeatureError: no or a wrong header, no rows, a row that is cut, ragged or no numbers, or text that is not UTF-8.
    """
    digest = hashlib.blake2b(digest_size=32)
    tokens: list[str] = []
    blocks: list[np.ndarray] = []

    def collect(future: Future) -> None:
        block_tokens, block = future.result()
        tokens.extend(block_tokens)
        blocks.append(block)

    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    try:
        with path.open("rb") as file, ThreadPoolExecutor(workers) as pool:
            header = file.readline()
            digest.update(header)
            _check_header(path, header, id_field)
            dim = None
            pending: collections.deque[Future] = collections.deque()
            for block in _read_blocks(file):
                digest.update(block)
                if dim is None:  # the first row says how long every row must be
                    first = block.split(b"\n", 1)[0]
                    dim = _parse_rows(path, first, None)[1].shape[1]
                pending.append(pool.submit(_parse_block, path, block, dim))
                if len(pending) > 2 * workers:  # bounds the text held in memory
                    collect(pending.popleft())
            while pending:
                collect(pending.popleft())
    except OSError as error:
        raise FeatureError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if not blocks:
        raise FeatureError(f"{path}: a header and no rows; add one row per token")
    return TextTable(tokens, _concatenate(blocks), digest.hexdigest())


def file_digest(path: Path) -> str:
    """BLAKE2b digest of a file, as in ``TextTable.digest``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _check_header(path: Path, raw: bytes, id_field: str) -> None:
    wanted = f"'{id_field}:token<TAB>name:float_seq'"
    if not raw:
        raise FeatureError(f"{path}: the file is empty; its first line must be {wanted}")
    header = raw.decode("utf-8", errors="replace").rstrip("\r\n")
    columns = header.split("\t")
    if len(columns) != 2 or not columns[0].endswith(":token") or not columns[1].endswith(":float_seq"):
        raise FeatureError(f"{path}: the header is {header[:80]!r}; it must be {wanted}")
    if columns[0] != f"{id_field}:token":
        raise FeatureError(
            f"{path}: its rows belong to '{columns[0].removesuffix(':token')}', not to '{id_field}'; correct the "
            "header or set the feature's side or id_field"
        )


def _read_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Blocks of whole lines."""
    while block := file.read(_BLOCK_BYTES):
        yield block + file.readline()


def _parse_block(path: Path, block: bytes, dim: int) -> tuple[list[str], np.ndarray]:
    """Tokens and rows [rows, dim] float32 of a block of whole lines."""
    if not block.endswith(b"\n"):
        block += b"\n"
    parsed = _parse_regular(block, dim)
    if parsed is None:  # once more with runs of spaces, spaces at the end and Windows line breaks made regular
        block = re.sub(rb"  +", b" ", re.sub(rb" *\r?\n", b"\n", block))
        parsed = _parse_regular(block, dim)
    return _parse_rows(path, block[:-1], dim) if parsed is None else parsed


def _parse_regular(block: bytes, dim: int) -> tuple[list[str], np.ndarray] | None:
    """Parse a block whose lines all are ``token<TAB>number number ...``; None where it is not so.

    The numbers are cast by Arrow in place: an Arrow string array is a list of offsets into the text, in which words
    alternate with the gaps between them, and the gaps are marked as null.
    """
    text = np.frombuffer(block, dtype=np.uint8)
    separators = np.flatnonzero(text <= _SPACE)
    if len(separators) % (dim + 1):
        return None
    separators = separators.astype(np.int32).reshape(-1, dim + 1)  # [rows, dim + 1]: tab, spaces, line break
    kinds = text[separators]
    if (kinds[:, 0] != _TAB).any() or (kinds[:, 1:-1] != _SPACE).any() or (kinds[:, -1] != _NEWLINE).any():
        return None
    offsets = np.empty((len(separators), dim, 2), dtype=np.int32)  # start and end of every number
    offsets[:, :, 0] = separators[:, :-1] + 1
    offsets[:, :, 1] = separators[:, 1:]
    length = offsets.size - 1
    valid = np.full(length // 8 + 1, 0b01010101, dtype=np.uint8)
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(block)]
    try:
        numbers = pc.cast(pa.Array.from_buffers(pa.string(), length, buffers), pa.float32())
        starts = np.concatenate(([0], separators[:-1, -1] + 1)).tolist()
        tokens = [block[start:end].decode() for start, end in zip(starts, separators[:, 0].tolist(), strict=True)]
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    values = np.frombuffer(numbers.buffers()[1], dtype=np.float32, count=length)
    return tokens, values[::2].reshape(-1, dim).copy()  # drop the gaps


def _parse_rows(path: Path, block: bytes, dim: int | None) -> tuple[list[str], np.ndarray]:
    """Parse row by row: slower, for what ``_parse_regular`` refuses, and to say which row is wrong."""
    try:
        lines = block.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FeatureError(f"{path}: byte {block[error.start]:#x} is not UTF-8; convert the file to UTF-8") from None
    tokens, rows = [], []
    for line in lines:
        token, tab, numbers = line.rstrip("\r").partition("\t")
        if not tab:
            raise FeatureError(f"{path}: the row '{token[:40]}' has no tab between token and numbers; correct the row")
        row = []
        for word in numbers.split(" "):
            try:
                if word:  # RecBole takes a run of spaces for one separator
                    row.append(float(word))
            except ValueError:
                raise FeatureError(
                    f"{path}: the row of '{token}' holds '{word[:40]}', which is no number; correct the row"
                ) from None
        dim = len(row) if dim is None else dim
        if len(row) != dim or dim == 0:
            raise FeatureError(
                f"{path}: the row of '{token}' has {len(row)} numbers, the first row {dim}; give every row as many"
            )
        tokens.append(token)
        rows.append(row)
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which check_rows reports
        return tokens, np.array(rows, dtype=np.float64).astype(np.float32)


def _concatenate(blocks: list[np.ndarray]) -> np.ndarray:
    """Join the blocks, freeing each once copied, so that the peak stays near one table rather than two."""
    table = np.empty((sum(map(len, blocks)), blocks[0].shape[1]), dtype=np.float32)
    end = len(table)
    while blocks:
        block = blocks.pop()
        table[end - len(block) : end] = block
        end -= len(block)
        del block
    return table
