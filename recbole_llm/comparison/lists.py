"""Reads recommendation lists of other systems from a file, and refuses what could be read in two ways."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm.errors import DataError

_READERS = {
    ".parquet": pd.read_parquet,
    ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    ".tsv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False, sep="\t"),
}
_NAMES = {"user": ("user", "user_id"), "item": ("item", "item_id"), "rank": ("rank",), "score": ("score",)}


def read_recommendations(path: str | Path) -> pd.DataFrame:
    """Recommendations of a file, one row each.

    Args:
        path: .parquet, .csv or .tsv with the columns user (or user_id), item (or item_id) and rank or score, in any
            case. Users and items are the tokens of the dataset's files. Of ranks, 1 is best; of scores, the highest,
            and equal scores are ordered as those of a model are. Where both are given, the ranks count.
    Returns:
        Columns user and item (str) and value (float64, higher is better).
    Raises:
        DataError: no such file, another format, missing columns or values, a pair given twice, or a rank given twice.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise DataError(f"{path}: recommendations are read from {', '.join(_READERS)}, not from '{path.suffix}'")
    if not path.is_file():
        raise DataError(f"{path}: no such file of recommendations; check its name and folder")
    try:
        raw = _READERS[path.suffix.lower()](path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())}); write it anew") from None
    columns = {name: _column(raw, path, name, spellings) for name, spellings in _NAMES.items()}
    order = columns["rank"] or columns["score"]
    missing = [name for name in ("user", "item") if columns[name] is None] + ([] if order else ["rank or score"])
    if missing:
        there = ", ".join(map(str, raw.columns))
        raise DataError(f"{path} has no column {' and no column '.join(missing)} (columns: {there}); add it")
    if raw.empty:
        raise DataError(f"{path} holds no recommendation; export the lists again")
    user, item = (_tokens(raw[columns[name]], path) for name in ("user", "item"))
    values = pd.to_numeric(raw[order], errors="coerce").astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(
            f"{path}: {bad.sum()} rows have no finite {order} (e.g. that of user {user[bad].iloc[0]!r} and item "
            f"{item[bad].iloc[0]!r}); fill or drop them"
        )
    table = pd.DataFrame({"user": user, "item": item, "value": -values if order == columns["rank"] else values})
    twice = table.duplicated(["user", "item"])
    if twice.any():
        example = table[twice].iloc[0]
        raise DataError(
            f"{path}: {twice.sum()} recommendations are there twice (e.g. item {example['item']!r} for user "
            f"{example['user']!r}); keep one of each"
        )
    if columns["rank"] is not None and (tied := table.duplicated(["user", "value"])).any():
        example = table[tied].iloc[0]
        raise DataError(
            f"{path}: {tied.sum()} ranks are there twice in a list (e.g. rank {-example['value']:g} of user "
            f"{example['user']!r}); give each item of a list a rank of its own, or give scores"
        )
    return table


def _column(raw: pd.DataFrame, path: Path, name: str, spellings: Sequence[str]) -> str | None:
    found = [column for column in raw.columns if str(column).strip().lower() in spellings]
    if len(found) > 1:
        raise DataError(f"{path}: both '{found[0]}' and '{found[1]}' could be the {name}; drop one of them")
    return found[0] if found else None


def _tokens(column: pd.Series, path: Path) -> pd.Series:
    """A column of tokens as text."""
    if pd.api.types.is_float_dtype(column):
        raise DataError(
            f"{path}: column '{column.name}' holds decimal numbers (e.g. {column.iloc[0]}), which are no tokens; write "
            "the tokens as text"
        )
    empty = column.isna() | (column.astype(str) == "")
    if empty.any():
        raise DataError(f"{path}: {empty.sum()} rows have no {column.name}; fill or drop them")
    return column.astype(str)
