"""What was made from the training rows of a split, and so belongs to that split alone.

Texts about users, and edges that a model proposed, know the rows they were made from. Their file says which split these
were the training rows of; under another split some of them are held out, and what the file knows would be a leak.

``augment`` writes ``<name>.jsonl`` and beside it ``<name>.meta.json``: what made it, protocol and fingerprint of the
split, and the sha256 of the lines, so that the two cannot be mixed up. ``encode`` hands this on to the feature file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import DataError, SplitMismatchError

EDGE_FIELDS = ("user_id", "liked", "disliked")


def beside(path: Path) -> Path:
    """Where it stands what a JSON-lines file was made from: ``<name>.meta.json``."""
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.meta.json")


def write_derived(path: Path, records: list[Mapping[str, Any]], origin: Mapping[str, Any]) -> None:
    """Write JSON lines and what they were made from, each atomically.

    Args:
        records: a line each. origin: plain data; ``protocol`` and ``split`` where a split's training rows went in.
    """
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    origin = {**origin, "sha256": hashlib.sha256(content).hexdigest()}
    with atomic_writer(path) as file:
        file.write(content)
    with atomic_writer(beside(path)) as file:
        file.write((json.dumps(origin, indent=1, ensure_ascii=False) + "\n").encode())


def read_origin(path: Path) -> dict[str, Any]:
    """What a JSON-lines file was made from; nothing for one that says nothing.

    Raises:
        DataError: when the description cannot be read, or is that of other lines.
    """
    about = beside(path)
    if not about.is_file():
        return {}
    try:
        origin = json.loads(about.read_text(encoding="utf-8"))
        expected = origin["sha256"]
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{about} does not say what {path.name} was made from; make both again with 'recbole-llm augment'"
        ) from None
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise DataError(
            f"{path.name} has changed since {about.name} was written, so nobody knows which split it is of; make it "
            f"again with 'recbole-llm augment', or delete {about.name} if the texts are from elsewhere"
        )
    return origin


def check_split(what: str, origin: Mapping[str, Any], fingerprint: str, protocol: str) -> None:
    """Refuse what was made from the training rows of another split.

    Args:
        what: for the message. origin: from ``read_origin`` or a feature file's metadata. fingerprint, protocol: of the
            split it is to be used under.
    Raises:
        SplitMismatchError: with both splits and the way out.
    """
    other = origin.get("split")
    if other and other != fingerprint:
        made, name = origin.get("protocol", "unknown"), origin.get("protocol", protocol)
        raise SplitMismatchError(
            f"{what} was made from the training rows of another split (protocol {made}, {other[:12]}) than this run's "
            f"(protocol {protocol}, {fingerprint[:12]}), so it may know held-out items; make it again with "
            f"'recbole-llm augment --protocol={protocol}'"
            + (f", or run with --protocol={name}" if name != protocol else "")
        )


def load_edges(path: Path | str, data) -> np.ndarray:
    """Proposed edges as ids: a user, an item he would like, one he would not.

    Args:
        path: ``<dataset>.edges.jsonl`` of ``recbole-llm augment --kind edges``.
        data: a RecData.
    Returns:
        [n, 3] int64.
    Raises:
        DataError: no such file, a line that is no edge, or a user or item that the dataset does not have.
        SplitMismatchError: the edges were made under another split.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file of edges; make it with 'recbole-llm augment --kind edges'")
    check_split(str(path), read_origin(path), data.split.fingerprint, data.config["protocol"])
    base = data.base
    fields = (base.uid_field, base.iid_field, base.iid_field)
    edges = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            tokens = [str(row[name]) for name in EDGE_FIELDS]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: line {number} is no edge; each must have {', '.join(EDGE_FIELDS)}") from None
        for name, field, token in zip(EDGE_FIELDS, fields, tokens, strict=True):
            if token not in base.field2token_id[field]:
                raise DataError(f"{path}: line {number} names {name} '{token}', which the dataset does not have")
        edges.append([base.field2token_id[field][token] for field, token in zip(fields, tokens, strict=True)])
    return np.array(edges, dtype=np.int64).reshape(-1, 3)
