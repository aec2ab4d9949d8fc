"""Comments and ratings of anime in the layout of AGLRec (https://github.com/ChelseaXia/AGLRec).

Three tables with a header, fields separated by a tab and quoted as CSV where they hold tabs, line breaks or quotes:

| file | columns | |
|---|---|---|
| interactions.tsv | user_id, subject_id; rate, comment, updated_at where there are | the last of a pair counts |
| anime.tsv | subject_id, name; tags_name, summary where there are | commas, bars or spaces between tags |
| user.tsv | user_id and any others | may be absent |

A rate of 0, or none, means that someone has watched but not rated: the row stays, with the rating 0, so that it is an
interaction for models of implicit feedback, weighs nothing where comments are weighted by ratings, and is dropped by
``min_rating: 1``. A review's id is ``<user_id>/<subject_id>``, the same in a later dump of the site.
"""

import csv
import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from recbole_llm.convert.converted import Converted
from recbole_llm.convert.reading import Files, numbers, plain, words
from recbole_llm.errors import DataError

INTERACTIONS, ITEMS, USERS = "interactions.tsv", "anime.tsv", "user.tsv"
_SEPARATORS = r"[,，、|;；]"
_YEAR_5138 = 1e11  # a time beyond is one of milliseconds


def convert(source: Path) -> Converted:
    """Read a folder with the tables.

    Raises:
        DataError: a file or column is missing, or one is malformed.
    """
    files = Files(source)
    item, item_text = _items(files)
    user = _users(files) if files.has(USERS) else None
    inter, reviews, notes = _interactions(files)
    types = {"rating": "float", "timestamp": "float", "tags": "token_seq"}
    texts = {"item_text": item_text} | ({"reviews": reviews} if reviews else {})
    return Converted(inter, item, user, types, texts, notes)


def _table(files: Files, name: str, needed: tuple[str, ...]) -> pd.DataFrame:
    """A table's text, empty where a field is."""
    reader = csv.reader(io.StringIO(files.text(name)), delimiter="\t")
    try:
        header = [column.strip() for column in next(reader, [])]
        for column in needed:
            if column not in header:
                raise DataError(f"{files.source}: {name} has no column '{column}' (columns: {', '.join(header)})")
        rows = []
        for row in reader:
            if not row:
                continue
            rows.append(row)
            # a text that begins with a lone quote takes the lines up to the next quote for its own
            swallowed = any("\n" in text and text.count("\t") >= len(header) - 1 for text in row)
            if len(row) != len(header) or swallowed:
                raise DataError(
                    f"{files.source}: {name}, line {reader.line_num} has {len(row)} fields instead of {len(header)}, "
                    "or a quote that nothing closes; texts with tabs, line breaks or quotes must be quoted as in CSV"
                )
    except csv.Error as error:
        raise DataError(f"{files.source}: {name}, line {reader.line_num}: {error}; is a quote left open?") from None
    if not rows:
        raise DataError(f"{files.source}: {name} has no rows; fetch it again")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _items(files: Files) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    table = _table(files, ITEMS, ("subject_id", "name"))
    empty = pd.Series("", index=table.index, dtype=object)
    item = pd.DataFrame({"item_id": table["subject_id"].str.strip(), "name": table["name"].map(plain)}, dtype=object)
    item["tags"] = [_tags(text) for text in table.get("tags_name", empty)]
    item["summary"] = table.get("summary", empty).map(plain)
    texts = []
    for token, name, tags, summary in item.itertuples(index=False, name=None):
        parts = [name, tags and f"Tags: {', '.join(tags)}", summary and f"Summary: {summary}"]
        text = " ".join(". ".join(part for part in parts if part).split())
        texts.append({"item_id": token, "item_text": text})
    return item, [row for row in texts if row["item_text"]]


def _tags(text: str) -> list[str]:
    """``校园,恋爱``, ``校园|恋爱``, ``['校园', '恋爱']`` or, without a separator of these, ``校园 恋爱``."""
    text = text.strip().strip("[]")
    parts = re.split(_SEPARATORS if re.search(_SEPARATORS, text) else r"\s", text)
    return words(part.strip(" '\"") for part in parts)


def _users(files: Files) -> pd.DataFrame:
    table = _table(files, USERS, ("user_id",))
    table.columns = [re.sub(r"\W+", "_", column) for column in table.columns]  # a header of RecBole's ends names at ':'
    return table.map(plain)


def _interactions(files: Files) -> tuple[pd.DataFrame, list[dict[str, str]], list[str]]:
    table = _table(files, INTERACTIONS, ("user_id", "subject_id"))
    where = f"{files.source}: {INTERACTIONS}"
    pairs = {"user_id": table["user_id"].str.strip(), "item_id": table["subject_id"].str.strip()}
    inter, notes = pd.DataFrame(pairs, dtype=object), []
    if "rate" in table:
        inter["rating"] = numbers((rate.strip() or "0" for rate in table["rate"]), f"{where}, rate")
    if "updated_at" in table:
        inter["timestamp"] = [_seconds(text.strip(), where) for text in table["updated_at"]]
    comments = table["comment"].map(plain) if "comment" in table else pd.Series("", index=table.index)
    order = inter.sort_values("timestamp", kind="stable") if "timestamp" in inter else inter
    last = order.drop_duplicates(["user_id", "item_id"], keep="last").index.sort_values()
    if len(last) < len(inter):
        notes.append(f"{len(inter) - len(last):,} earlier states of an interaction left out")
    inter, comments = inter.loc[last].reset_index(drop=True), comments.loc[last].tolist()
    if "rating" in inter and (unrated := int((inter["rating"] == 0).sum())):
        notes.append(f"{unrated:,} interactions without a rating have the rating 0")
    reviews = []
    if any(comments):
        ids = (inter["user_id"] + "/" + inter["item_id"]).where(pd.Series(comments).map(bool), "")
        inter["review_id"] = ids
        reviews = [{"review_id": token, "review": text} for token, text in zip(ids, comments, strict=True) if text]
        if len({row["review_id"] for row in reviews}) < len(reviews):
            raise DataError(f"{where}: ids hold '/', so that two reviews would have one id; rename them")
    return inter, reviews, notes


def _seconds(text: str, where: str) -> float:
    """Unix seconds of an ISO date, taken for UTC where it names no zone, or of a number."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise DataError(f"{where}, updated_at: '{text}' is neither an ISO date nor Unix seconds") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < _YEAR_5138:
        raise DataError(f"{where}, updated_at: '{text}' are no Unix seconds; are they milliseconds?")
    return seconds
