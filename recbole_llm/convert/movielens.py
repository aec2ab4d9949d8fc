"""MovieLens 1M: GroupLens' own files, or RecBole's interactions; beside them plots and descriptions of the films.

| file | of | gives |
|---|---|---|
| ratings.dat, movies.dat, users.dat | GroupLens | interactions with times, titles, years, genres, users |
| ml-1m.inter or ml-1m.inter.gz | RecBole | interactions, where there is no ratings.dat; all their columns are kept |
| movies_extrainfos.dat | MeLU | titles, years, genres, certificates, persons, plots; in the place of movies.dat |
| llm_response_item.json | CoLaKG | a description an item, by a language model |

CoLaKG's keys are taken for MovieLens ids only when the descriptions name the titles: 95 % do, those of the next id 4 %.
"""

import json
import re
from pathlib import Path

import pandas as pd

from recbole_llm.convert.converted import Converted
from recbole_llm.convert.reading import Files, numbers, plain, words
from recbole_llm.errors import DataError

NAME = "ml-1m"
RATINGS, MOVIES, USERS = "ratings.dat", "movies.dat", "users.dat"
INTER, EXTRA, DESCRIPTIONS = (f"{NAME}.inter", f"{NAME}.inter.gz"), "movies_extrainfos.dat", "llm_response_item.json"
_SEPARATOR, _ENCODING = "::", "latin-1"
# of the descriptions, how many must name the title of their film; alternative titles cost some
_LEAST_NAMED = 0.8


def convert(source: Path) -> Converted:
    """Read a folder or a zip with the files named above, also in folders right below it.

    Raises:
        DataError: a file is missing or malformed.
    """
    files = Files(source, f"{NAME}.zip")
    types = {"rating": "float", "timestamp": "float", "genres": "token_seq", "director": "token_seq"}
    types |= {"actors": "token_seq"}
    atomic = next((name for name in INTER if files.has(name)), None)
    if files.has(RATINGS):
        inter = _ratings(files)
    elif atomic:
        inter, of_file = _atomic(files, atomic)
        types |= of_file
    else:
        raise DataError(f"{files.source} has neither {RATINGS} nor {' nor '.join(INTER)}; put one of them there")
    item, notes = _extra(files) if files.has(EXTRA) else _movies(files), []
    records = {token: {"item_id": token} for token in item["item_id"]}
    if "plot" in item:
        for token, plot in zip(item["item_id"], item["plot"], strict=True):
            records[token]["plot"] = plot
    if files.has(DESCRIPTIONS):
        described = _descriptions(files)
        named = _share_named(dict(zip(item["item_id"], item["title"], strict=True)), described)
        if named < _LEAST_NAMED:
            notes = [f"{DESCRIPTIONS} left out: only {named:.0%} of its texts name the title of their film"]
        else:
            for token, text in described.items():
                records.setdefault(token, {"item_id": token})["description"] = text
    lines = [row for row in records.values() if any(value for key, value in row.items() if key != "item_id")]
    texts = {"item_text": lines} if lines else {}
    return Converted(inter, item, _users(files) if files.has(USERS) else None, types, texts, notes)


def _ratings(files: Files) -> pd.DataFrame:
    rows = files.rows(RATINGS, _SEPARATOR, 4)
    inter = pd.DataFrame([row[:2] for row in rows], columns=["user_id", "item_id"], dtype=object)
    for place, column in ((2, "rating"), (3, "timestamp")):
        inter[column] = numbers((row[place] for row in rows), f"{files.source}: {RATINGS}, {column}")
    return inter


def _atomic(files: Files, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """RecBole's file; its columns may be tokens and floats."""
    header = files.text(name).split("\n", 1)[0].split("\t")
    types = dict(column.rpartition(":")[::2] for column in header)
    if not {"user_id", "item_id"} <= set(types) or not set(types.values()) <= {"token", "float"}:
        raise DataError(
            f"{files.source}: {name} must have the columns user_id:token and item_id:token, tokens and floats"
        )
    rows = files.rows(name, "\t", len(header))[1:]
    inter = pd.DataFrame(rows, columns=list(types), dtype=object)
    for column in (column for column, kind in types.items() if kind == "float"):
        inter[column] = numbers(inter[column], f"{files.source}: {name}, {column}")
    return inter, types


def _movies(files: Files) -> pd.DataFrame:
    """``1::Toy Story (1995)::Animation|Children's|Comedy``; titles are kept as written, articles last."""
    found = []
    for token, title, genres in files.rows(MOVIES, _SEPARATOR, 3, _ENCODING):
        dated = re.fullmatch(r"(.*\S)\s*\((\d{4})\)\s*", title)
        name, year = dated.groups() if dated else (title, "")
        found.append([token, plain(name), year, words(genres.split("|"))])
    return pd.DataFrame(found, columns=["item_id", "title", "year", "genres"], dtype=object)


def _extra(files: Files) -> pd.DataFrame:
    """Films as OMDb knows them, ``N/A`` where it knows nothing; date, writers and poster stay out."""
    found = []
    for row in files.rows(EXTRA, _SEPARATOR, 11):
        token, title, year, rated, _, genres, director, _, actors, plot, _ = ("" if x == "N/A" else x for x in row)
        people = [words(names.split(", ")) for names in (director, actors)]
        found.append([token, plain(title), year, words(genres.split(", ")), plain(rated), *people, plain(plot)])
    columns = ["item_id", "title", "year", "genres", "certificate", "director", "actors", "plot"]
    return pd.DataFrame(found, columns=columns, dtype=object)


def _users(files: Files) -> pd.DataFrame:
    columns = ["user_id", "gender", "age", "occupation", "zip_code"]
    return pd.DataFrame(files.rows(USERS, _SEPARATOR, len(columns), _ENCODING), columns=columns, dtype=object)


def _descriptions(files: Files) -> dict[str, str]:
    try:
        found = json.loads(files.text(DESCRIPTIONS))
    except json.JSONDecodeError as error:
        raise DataError(f"{files.source}: {DESCRIPTIONS} is not JSON ({error.msg}); fetch it again") from None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise DataError(f"{files.source}: {DESCRIPTIONS} must be one object of texts; it is of another format")
    return {token: " ".join(text.split()) for token, text in found.items()}


def _share_named(titles: dict[str, str], described: dict[str, str]) -> float:
    """How many of the descriptions name their film; the article and alternative titles in brackets do not count."""
    known = [token for token in described if token in titles]
    cores = (re.sub(r", \w{1,3}$", "", titles[token].split(" (")[0]) for token in known)
    named = sum(_letters(core) in _letters(described[token]) for core, token in zip(cores, known, strict=True))
    return named / max(len(known), 1)


def _letters(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()
