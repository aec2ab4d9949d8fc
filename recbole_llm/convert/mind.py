"""News and impressions in the format of MIND (https://msnews.github.io), as MINDsmall, MINDlarge and Adressa's exports.

``news.tsv``: id, category, subcategory, title, abstract, URL, entities of the title, entities of the abstract (JSON).
``behaviors.tsv``: impression, user, time, history of clicks, and what was shown, ``N1-1`` clicked, ``N2-0`` not.
``entity_embedding.vec``: a Wikidata id and its vector (TransE) a line; in MIND every part has such a file.

Histories become rows too, clicked, with the part ``history`` and without an impression: they are clicks from before
the first impressions, whose order is known and whose times are not. Each such row lies a second before the next, the
last one a second before the impression that first tells of it.

A folder of parts becomes one dataset: the rows of a folder or zip with ``train`` in its name are train, those of
``dev``, ``valid`` or ``test`` are test; what is shown there without labels (MINDlarge_test) is left out. Validation
rows are the protocol's to draw from train: to validate on the rows of dev would be to choose by the test.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm.convert.converted import Converted, Feature
from recbole_llm.convert.news import TYPES, Triple, graph
from recbole_llm.convert.reading import Files, plain, words
from recbole_llm.errors import DataError

NEWS, BEHAVIORS, VECTORS = "news.tsv", "behaviors.tsv", "entity_embedding.vec"
_PARTS = {"train": "train", "dev": "test", "valid": "test", "test": "test"}
_TIME = "%m/%d/%Y %I:%M:%S %p"
_NEWS_COLUMNS = ["item_id", "category", "subcategory", "title", "abstract", "entities"]
_INTER_COLUMNS = ["user_id", "item_id", "label", "timestamp", "impression_id", "part"]


def convert(source: Path) -> Converted:
    """Read a folder or zip of one part, or a folder of several.

    Raises:
        DataError: a file is missing or malformed, or a part's name says neither train nor dev nor test.
    """
    parts = _parts(source)
    news: dict[str, list] = {}
    triples: list[Triple] = []
    vectors: dict[str, np.ndarray] = {}
    clicks = _Clicks()
    for prefix, part, files in parts:
        for row, of_row in _news(files):
            if row[0] not in news:  # a part repeats the articles of another
                news[row[0]] = row
                triples += of_row
        if files.has(VECTORS):
            vectors |= _vectors(files)
        clicks.read(files, prefix, part)
    inter, notes = clicks.table()
    item = pd.DataFrame(list(news.values()), columns=_NEWS_COLUMNS, dtype=object)
    kg, link = graph(news, triples)
    features = {}
    if vectors:
        known = [token for token in dict.fromkeys(kg["tail_id"]) if token in vectors]
        notes.append(f"{len(vectors) - len(known):,} vectors of entities that no article names left out")
        if known:
            rows = np.stack([vectors[token] for token in known])
            features["entity"] = Feature(known, rows, "entity_id", {"encoder": f"MIND {VECTORS}", "method": "TransE"})
    return Converted(inter, item, types=TYPES, kg=kg, link=link, features=features, impressions=True, notes=notes)


def _parts(source: Path) -> list[tuple[str, str, Files]]:
    """Prefix of the impressions' ids, part and files of each part, train first."""
    places = []
    if source.is_dir() and not (source / BEHAVIORS).is_file():
        places = [p for p in sorted(source.iterdir()) if p.suffix == ".zip" or (p / BEHAVIORS).is_file()]
    if not places:
        return [("", "train", Files(source))]
    found = []
    for place in places:
        names = [name for name in _PARTS if name in place.stem.lower()]
        if len(names) != 1:
            raise DataError(
                f"{place} is a part whose name says neither train nor dev nor test, or several; rename it, or name it "
                "with --source to convert it alone"
            )
        found.append((f"{names[0]}-", _PARTS[names[0]], Files(place)))
    return sorted(found, key=lambda part: list(_PARTS).index(part[0][:-1]))


def _news(files: Files) -> Iterator[tuple[list, list[Triple]]]:
    """Rows of ``.item`` and the triples of each."""
    for number, fields in enumerate(files.rows(NEWS, "\t", 8), start=1):
        token, category, subcategory, title, abstract, _, *listed = fields
        triples = []
        for relation, text in zip(("title", "abstract"), listed, strict=True):
            try:
                triples += [(token, relation, entity["WikidataId"]) for entity in json.loads(text or "[]")]
            except (json.JSONDecodeError, TypeError, KeyError):
                raise DataError(
                    f"{files.source}: {NEWS}, line {number}: the entities of the {relation} are no list of objects "
                    "with a WikidataId; fetch the file again"
                ) from None
        entities = words(entity for _, _, entity in triples)
        yield [token, plain(category), plain(subcategory), plain(title), plain(abstract), entities], triples


def _vectors(files: Files) -> dict[str, np.ndarray]:
    """Entity -> vector. [F] float32."""
    found: dict[str, np.ndarray] = {}
    size = None
    for number, line in enumerate(files.text(VECTORS).split("\n"), start=1):
        if not line.strip():
            continue
        token, *values = line.split()
        try:
            found[token] = np.array(values, dtype=np.float32)
        except ValueError:
            found[token] = np.array([np.nan], dtype=np.float32)
        size = size or len(values)
        if len(values) != size or not values or not np.isfinite(found[token]).all():
            raise DataError(
                f"{files.source}: {VECTORS}, line {number} is no entity with {size} numbers; fetch it again"
            )
    return found


class _Clicks:
    """Rows of ``.inter``, gathered over the parts."""

    def __init__(self) -> None:
        self.columns: list[list] = [[] for _ in _INTER_COLUMNS]
        self.known: dict[str, set[str]] = {}  # what each user is known to have clicked
        self.n_unlabelled = 0

    def read(self, files: Files, prefix: str, part: str) -> None:
        """The impressions of a part, in the order of time."""
        lines = []
        for number, fields in enumerate(files.rows(BEHAVIORS, "\t", 5), start=1):
            try:
                time = datetime.strptime(fields[2], _TIME).replace(tzinfo=UTC).timestamp()
            except ValueError:
                raise DataError(
                    f"{files.source}: {BEHAVIORS}, line {number}: '{fields[2]}' is no time like 11/13/2019 8:36:57 AM"
                ) from None
            lines.append((time, number, fields))
        for time, number, (impression, user, _, history, shown) in sorted(lines, key=lambda line: line[:2]):
            known = self.known.setdefault(user, set())
            # read only now: what a later history tells, an earlier impression may have told
            new = [item for item in dict.fromkeys(history.split()) if item not in known]
            for k, item in enumerate(new):
                self._add(user, item, 1.0, time - len(new) + k, "", "history")
            known.update(new)
            for candidate in shown.split():
                item, _, label = candidate.rpartition("-")
                if not item and label:  # no label: MINDlarge's test part
                    self.n_unlabelled += 1
                    continue
                if label not in ("0", "1"):
                    raise DataError(
                        f"{files.source}: {BEHAVIORS}, line {number}: '{candidate}' does not end in -0 or -1"
                    )
                self._add(user, item, float(label), time, prefix + impression, part)
                if label == "1":
                    known.add(item)

    def _add(self, *row) -> None:
        for column, value in zip(self.columns, row, strict=True):
            column.append(value)

    def table(self) -> tuple[pd.DataFrame, list[str]]:
        """``.inter`` and notes."""
        inter = pd.DataFrame(dict(zip(_INTER_COLUMNS, self.columns, strict=True)))
        n_impressions = inter["impression_id"].nunique() - int((inter["impression_id"] == "").any())
        notes = [f"{n_impressions:,} impressions, {int((inter['part'] == 'history').sum()):,} clicks of histories"]
        if self.n_unlabelled:
            notes.append(f"{self.n_unlabelled:,} shown articles without labels left out")
        return inter, notes
