"""Every question asked and its answer: what the ledger has is never paid for again, and can be replayed offline."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import DataError

_WAIT_S = 60.0
_LAYOUT = """CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, model TEXT, prompt TEXT, version INTEGER, request TEXT, reply TEXT,
    tokens_in INTEGER, tokens_out INTEGER, seconds REAL, usd REAL, at TEXT DEFAULT CURRENT_TIMESTAMP)"""


_COLUMNS = "key, model, prompt, version, request, reply, tokens_in, tokens_out, seconds, usd"


@dataclass(frozen=True)
class Call:
    """One answered request. Tokens are those that the endpoint counted."""

    model: str
    prompt: str
    version: int
    request: Mapping[str, Any]
    reply: str
    tokens_in: int
    tokens_out: int
    seconds: float
    usd: float


@dataclass(frozen=True)
class Totals:
    """Sums over calls."""

    calls: int
    tokens_in: int
    tokens_out: int
    seconds: float
    usd: float


def request_key(request: Mapping[str, Any]) -> str:
    """sha256 of a request: model, messages, sampling, schema."""
    return hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).hexdigest()


class Ledger:
    """A ledger on disk, in SQLite: one transaction a call, for several threads and processes; a context manager.

    Raises:
        DataError: on opening a file that is no ledger, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._lock = Path(path), threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # it holds what was asked, histories of users among it
            self._db = sqlite3.connect(self.path, timeout=_WAIT_S, check_same_thread=False)
            with self._db:
                self._db.execute(_LAYOUT)
            self._db.execute(f"SELECT {_COLUMNS} FROM calls LIMIT 0")
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{self.path} is no ledger ({error}); delete it or name another") from None

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def reply(self, key: str) -> str | None:
        """The answer to a request, or None where it was never asked."""
        with self._lock:
            row = self._db.execute("SELECT reply FROM calls WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def add(self, key: str, call: Call) -> None:
        """Keep an answer.

        Raises:
            DataError: when the disk is full or read-only.
        """
        values = (key, call.model, call.prompt, call.version, json.dumps(dict(call.request)), call.reply)
        values += (call.tokens_in, call.tokens_out, call.seconds, call.usd)
        try:
            with self._lock, self._db:
                marks = ", ".join("?" * len(values))
                self._db.execute(f"INSERT OR IGNORE INTO calls ({_COLUMNS}) VALUES ({marks})", values)
        except sqlite3.Error as error:
            raise DataError(f"{self.path} cannot be written ({error}); make room, or name another ledger") from None

    def totals(self) -> Totals:
        """Of all calls that the ledger has."""
        with self._lock:
            sums = "COUNT(*), TOTAL(tokens_in), TOTAL(tokens_out), TOTAL(seconds), TOTAL(usd)"
            n, tokens_in, tokens_out, seconds, usd = self._db.execute(f"SELECT {sums} FROM calls").fetchone()
        return Totals(n, int(tokens_in), int(tokens_out), seconds, usd)
