"""A converted dataset, and its files: all of them or none."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recbole_llm.data.atomic import write_atomic
from recbole_llm.data.feature_file import save_feature
from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import DataError

# of the files below, those that a former conversion left and this one does not have are removed
_OWN = ("inter", "item", "user", "kg", "link", "item_text.jsonl", "reviews.jsonl", "entity.safetensors")


class Feature(NamedTuple):
    """Arguments of ``save_feature``."""

    tokens: Sequence[str]
    rows: np.ndarray
    id_field: str
    metadata: Mapping[str, str]


@dataclass
class Converted:
    """Tables and texts of a dataset.

    Attributes:
        inter: columns user_id, item_id and more, a row an interaction. item, user: columns item_id, user_id and more.
        types: field name -> field type of every column that is no token.
        texts: name -> records of ``<dataset>.<name>.jsonl``.
        notes: what the summary adds, each a few words.
        kg, link: columns head_id, relation_id, tail_id; item_id, entity_id: RecBole's form of a knowledge graph.
        features: name -> tokens, rows [n, F] float32, id field and metadata of ``<dataset>.<name>.safetensors``.
        impressions: whether a row is what somebody was shown, clicked or not, so that a pair may come again.
    """

    inter: pd.DataFrame
    item: pd.DataFrame
    user: pd.DataFrame | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kg: pd.DataFrame | None = None
    link: pd.DataFrame | None = None
    features: Mapping[str, Feature] = field(default_factory=dict)
    impressions: bool = False

    def __post_init__(self) -> None:
        described = [(self.item, "item_id")] + ([] if self.user is None else [(self.user, "user_id")])
        for frame, column in [(self.inter, "user_id"), (self.inter, "item_id"), *described]:
            if not frame[column].map(bool).all():
                raise DataError(f"a line of the source has an empty {column}; correct or delete it")
        for frame, column in described:
            if frame[column].duplicated().any():
                twice = frame[column][frame[column].duplicated()].iloc[0]
                raise DataError(f"{column} '{twice}' is described twice in the source; keep one line of it")
        if self.impressions:
            return
        # a later rating of the same item replaces the former
        repeated = self.inter.duplicated(["user_id", "item_id"], keep="last")
        if repeated.any():
            self.inter = self.inter[~repeated].reset_index(drop=True)
            self.notes.append(f"{repeated.sum():,} repeated interactions left out, the last one kept")

    def summary(self, folder: Path) -> str:
        """One sentence: where it is and how large."""
        users, items = self.inter["user_id"].nunique(), set(self.inter["item_id"])
        text = f"wrote {folder}: {users:,} users, {len(items):,} items, {len(self.inter):,} interactions"
        undescribed = len(items - set(self.item["item_id"]))
        notes = [f"{undescribed:,} items without a line in .item"] if undescribed else []
        if self.kg is not None:
            n_entities = len({*self.kg["head_id"], *self.kg["tail_id"]})
            notes.append(f"knowledge graph: {len(self.kg):,} triples between {n_entities:,} entities")
        notes += [f"feature {name}: {len(feature.tokens):,} rows" for name, feature in self.features.items()]
        for name, records in self.texts.items():
            counts = {key: sum(bool(row.get(key)) for row in records) for key in _fields(records)}
            notes.append(f"texts in .{name}.jsonl: {', '.join(f'{n:,} {key}' for key, n in counts.items())}")
        return "; ".join([text, *notes, *self.notes])

    def write(self, folder: Path, overwrite: bool = False) -> None:
        """Write ``folder/<name>.inter`` and the others, ``<name>`` being the folder's: all, or on an error none.

        Args:
            overwrite: replace such files that are there; feature files stay.
        Raises:
            DataError: such files are there, or a field cannot be written.
        """
        name = folder.name
        there = [suffix for suffix in _OWN if (folder / f"{name}.{suffix}").exists()]
        if there and not overwrite:
            raise DataError(
                f"{folder} has {name}.{there[0]} already; say --overwrite, or choose another name with --dataset"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=folder.parent))
        try:
            for suffix in ("inter", "item", "user", "kg", "link"):
                frame = getattr(self, suffix)
                if frame is not None:
                    types = {column: self.types.get(column, "token") for column in frame}
                    write_atomic(made / f"{name}.{suffix}", frame, types)
            for suffix, records in self.texts.items():
                with atomic_writer(made / f"{name}.{suffix}.jsonl") as file:
                    file.writelines((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in records)
            for feature_name, feature in self.features.items():
                save_feature(made / f"{name}.{feature_name}.safetensors", *feature)
            if not folder.exists():
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(made, 0o777 & ~umask)  # mkdtemp makes private folders
                os.replace(made, folder)
                return
            new = {path.name for path in made.iterdir()}
            for stale in (folder / f"{name}.{suffix}" for suffix in there):
                if stale.name not in new:
                    stale.unlink()
            for file_name in sorted(new):
                os.replace(made / file_name, folder / file_name)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _fields(records: Sequence[Mapping[str, str]]) -> list[str]:
    """Text fields of some records."""
    return [key for key in dict.fromkeys(key for row in records for key in row) if not key.endswith("_id")]
