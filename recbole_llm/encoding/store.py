"""Encoded rows by content: what has been encoded once, by whichever process, is not encoded again.

One SQLite file, one row a content. A batch is one transaction, so that a process killed at any moment loses the batch
in flight and nothing else, and two processes can write to one store.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from recbole_llm.errors import DataError

_WAIT_S = 60.0  # for a lock that another process holds
_KEYS_A_QUERY = 500  # SQLite bounds the number of placeholders
_LAYOUT = "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, dtype TEXT, vector BLOB) WITHOUT ROWID"


def row_keys(identity: Mapping[str, str], contents: Iterable[str]) -> list[bytes]:
    """Keys of some rows: sha256 over the encoder's identity and the content's own hash.

    Args:
        identity: all that the numbers depend on beside the content: encoder, revision, pooling, preprocessing, dtype.
        contents: sha256 of each text or image file, hexadecimal.
    """
    start = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode())
    keys = []
    for content in contents:
        digest = start.copy()
        digest.update(content.encode())
        keys.append(digest.digest())
    return keys


class RowStore:
    """A store on disk; a context manager.

    Raises:
        DataError: on opening a file that is no store, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # autocommit: transactions begin and end where it is written so
            self._db = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
            with contextlib.suppress(sqlite3.OperationalError):  # a disk that cannot: each commit waits for it then
                # a log that is written at commits and reaches the disk later: nothing is lost when a process is killed
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(_LAYOUT)
            self._db.execute("SELECT key, dtype, vector FROM rows LIMIT 0")
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{self.path} is no store of encoded rows ({error}); delete it or name another") from None

    def __enter__(self) -> "RowStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The rows that are there, [F] each."""
        found = {}
        for start in range(0, len(keys), _KEYS_A_QUERY):
            part = list(keys[start : start + _KEYS_A_QUERY])
            marks = ",".join("?" * len(part))
            for key, dtype, vector in self._db.execute(f"SELECT * FROM rows WHERE key IN ({marks})", part):
                found[key] = np.frombuffer(vector, dtype=dtype)
        return found

    def missing(self, keys: Sequence[bytes]) -> set[bytes]:
        """The keys that are not there."""
        found = set()
        for start in range(0, len(keys), _KEYS_A_QUERY):
            part = list(keys[start : start + _KEYS_A_QUERY])
            marks = ",".join("?" * len(part))
            found |= {key for (key,) in self._db.execute(f"SELECT key FROM rows WHERE key IN ({marks})", part)}
        return set(keys) - found

    def put(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Keep rows [n, F] float16 or float32, all or none; a key that is there keeps its row.

        Raises:
            DataError: when the disk is full or read-only.
        """
        rows = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
        values = [(key, rows.dtype.str, row.tobytes()) for key, row in zip(keys, rows, strict=True)]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:  # commits, or rolls back
                self._db.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", values)
        except sqlite3.Error as error:
            raise DataError(f"{self.path} cannot be written ({error}); make room, or name another store") from None
