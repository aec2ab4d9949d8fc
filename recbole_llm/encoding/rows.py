"""Encodes what a store lacks, in batches of similar length, and gives back one row a token."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_llm.encoding.encoder import Content, Encoder
from recbole_llm.encoding.store import RowStore, row_keys
from recbole_llm.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """Rows of a feature.

    Attributes:
        tokens: in the order given, those without a row left out.
        embedding: [n, F] of the dtype asked for.
        new: contents that were encoded; reused: those the store had.
    """

    tokens: list[str]
    embedding: np.ndarray
    new: int
    reused: int


@dataclass(frozen=True)
class Plan:
    """What there is to do: batches of (key, content), and the key of every token.

    ``batches`` are formed from all contents, encoded or not, so that a run broken off and begun again forwards the very
    batches of an unbroken one: the numbers come out the same to the last bit.
    """

    keys: dict[str, bytes]
    batches: list[list[tuple[bytes, Content]]]
    n_contents: int

    @property
    def todo(self) -> list[Content]:
        """The contents to encode, longest first."""
        return [content for batch in self.batches for _, content in batch]


def content_hash(content: Content) -> str:
    """sha256 of a text, or of an image file's bytes."""
    data = content.read_bytes() if isinstance(content, Path) else content.encode()
    return hashlib.sha256(data).hexdigest()


def make_plan(
    contents: Mapping[str, Content], encoder: Encoder, store: RowStore, dtype: np.dtype, batch_size: int
) -> Plan:
    """Which batches the store lacks.

    Args:
        contents: token -> text or image file.
        dtype: float16 or float32, of the rows to keep.
        batch_size: contents a batch, >= 1.
    """
    hashes = {token: content_hash(content) for token, content in contents.items()}
    of_hash = {digest: contents[token] for token, digest in hashes.items()}
    identity = encoder.identity | {"dtype": np.dtype(dtype).name}
    of_hash_keys = dict(zip(of_hash, row_keys(identity, of_hash), strict=True))
    # longest first: memory runs out in the first batch or never
    ordered = sorted(of_hash, key=lambda digest: (-_length(of_hash[digest]), str(of_hash[digest])))
    missing = store.missing(list(of_hash_keys.values()))
    batches = []
    for start in range(0, len(ordered), batch_size):
        part = [(of_hash_keys[digest], of_hash[digest]) for digest in ordered[start : start + batch_size]]
        if left := [entry for entry in part if entry[0] in missing]:
            batches.append(left)
    return Plan({token: of_hash_keys[digest] for token, digest in hashes.items()}, batches, len(of_hash))


def _length(content: Content) -> int:
    return 0 if isinstance(content, Path) else len(content)


def encode_rows(
    plan: Plan,
    encoder: Encoder,
    store: RowStore,
    dtype: np.dtype,
    done: Callable[[int], None] = lambda n: None,
) -> Encoded:
    """Encode what is left to do, keep it, and read every row back.

    Args:
        done: called with the number of contents after each batch.
    Raises:
        DataError: when a row is not finite, or rows differ in size.
    """
    if encoder.requests == 1:  # a model on this machine uses all cores: nothing is gained beside it
        for batch in plan.batches:
            _keep(store, batch, _encode_batch(encoder, batch, dtype), done)
    else:
        _encode_at_once(plan, encoder, store, dtype, done)
    rows = store.get(list(plan.keys.values()))
    tokens = list(plan.keys)
    sizes = {len(row) for row in rows.values()}
    if len(sizes) > 1:
        raise DataError(f"the encoder gave rows of {len(sizes)} sizes ({sorted(sizes)}); use one model for a feature")
    embedding = np.array([rows[plan.keys[token]] for token in tokens], dtype=dtype)
    n_new = len(plan.todo)
    return Encoded(tokens, embedding, n_new, plan.n_contents - n_new)


def _keep(store: RowStore, batch: Sequence[tuple[bytes, Content]], rows: np.ndarray, done: Callable[[int], None]):
    store.put([key for key, _ in batch], rows)
    done(len(batch))


def _encode_at_once(
    plan: Plan, encoder: Encoder, store: RowStore, dtype: np.dtype, done: Callable[[int], None]
) -> None:
    """Several batches at a time, each kept as soon as it is there."""
    tasks = {}
    with ThreadPoolExecutor(encoder.requests) as pool:
        tasks |= {pool.submit(_encode_batch, encoder, batch, dtype): batch for batch in plan.batches}
        try:
            for task in as_completed(list(tasks)):
                _keep(store, tasks.pop(task), task.result(), done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            for task, batch in tasks.items():  # what was under way may have been paid for
                if task.done() and not task.cancelled() and task.exception() is None:
                    _keep(store, batch, task.result(), done)
            raise


def _encode_batch(encoder: Encoder, batch: Sequence[tuple[bytes, Content]], dtype: np.dtype) -> np.ndarray:
    rows = np.asarray(encoder.encode([content for _, content in batch]))
    if rows.ndim != 2 or len(rows) != len(batch):
        raise DataError(f"the encoder gave {list(rows.shape)} for {len(batch)} contents; it must give a row for each")
    if not np.isfinite(rows).all():
        bad = batch[int(np.argmin(np.isfinite(rows).all(axis=1)))][1]
        raise DataError(f"the encoder's row of {str(bad)[:60]!r} is not finite; leave it out, or use another encoder")
    return rows.astype(dtype)


def seconds_left(plan: Plan, encoder: Encoder, store: RowStore, dtype: np.dtype) -> float:
    """How long the plan takes, by encoding (and keeping) its middle batch; 0 when there is nothing to do."""
    if not plan.batches:
        return 0.0
    batch = plan.batches[len(plan.batches) // 2]
    encoder.encode([batch[0][1]])  # loading the model does not count
    start = time.perf_counter()
    store.put([key for key, _ in batch], _encode_batch(encoder, batch, dtype))
    seconds = time.perf_counter() - start
    return seconds / len(batch) * len(plan.todo) / encoder.requests
