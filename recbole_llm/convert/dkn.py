"""Titles of Bing News with entities, clicked or not, as DKN hands them out (https://github.com/hwwang55/DKN).

``raw_train.txt`` and ``raw_test.txt``: user, title, label and entities (``id:name;id:name``), separated by tabs. There
are neither ids of the articles, nor times, nor impressions. An article is its title, numbered by first appearance; a
pair that comes both clicked and not clicked stays twice.
"""

import re
from pathlib import Path

import pandas as pd

from recbole_llm.convert.converted import Converted
from recbole_llm.convert.news import TYPES, graph
from recbole_llm.convert.reading import Files, plain
from recbole_llm.errors import DataError

FILES = {"train": "raw_train.txt", "test": "raw_test.txt"}


def convert(source: Path) -> Converted:
    """Read a folder or a zip with both files.

    Raises:
        DataError: a file is missing or malformed.
    """
    files = Files(source)
    rows: list[list] = []
    items: dict[str, str] = {}
    entities: dict[str, dict[str, None]] = {}  # in the order of the source, each once
    for part, name in FILES.items():
        for number, (user, title, label, listed) in enumerate(files.rows(name, "\t", 4), start=1):
            where = f"{files.source}: {name}, line {number}"
            if label not in ("0", "1"):
                raise DataError(f"{where}: the label '{label}' is neither 0 nor 1; the file is of another format")
            token = items.setdefault(plain(title), f"n{len(items) + 1}")
            rows.append([user, token, float(label), part])
            entities.setdefault(token, {}).update(dict.fromkeys(_entities(listed, where)))
    inter = pd.DataFrame(rows, columns=["user_id", "item_id", "label", "part"])
    item = pd.DataFrame(
        [[token, title, list(entities[token])] for title, token in items.items()],
        columns=["item_id", "title", "entities"],
        dtype=object,
    )
    kg, link = graph(items.values(), ((t, "mentions", entity) for t, found in entities.items() for entity in found))
    repeated = int(inter.duplicated(["user_id", "item_id"]).sum())
    notes = [f"{repeated:,} rows of pairs that came before"] if repeated else []
    return Converted(inter, item, types=TYPES, kg=kg, link=link, impressions=True, notes=notes)


def _entities(listed: str, where: str) -> list[str]:
    """``36136:Tautog;331:Bruce Springsteen`` -> e36136, e331."""
    found = re.split(r"(?:^|;)(?=\d+:)", listed)
    pairs = [part.partition(":") for part in found if part]
    if any(not key.isdigit() or not name for key, _, name in pairs):
        raise DataError(f"{where}: the entities '{listed}' are not of the form id:name;id:name; correct the line")
    return [f"e{key}" for key, _, _ in pairs]
