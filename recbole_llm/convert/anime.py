"""Anime ratings of MyAnimeList as reduced by Arthur Fortes: 4,714 users, 7,157 anime, 419,943 ratings of 1 to 10.

``anime_ratings.dat`` gives the interactions. ``anime_history.dat`` is left out: every rated pair is in it with the
feedback 1, and the 100,666 further pairs say neither whether the anime was liked nor when it was seen. Neither file has
times, so that protocols that order by time cannot be used. Of ``anime_info.dat`` the columns ``rating`` (mean over the
whole site) and ``members`` are left out: counted after the fact and over all users, they tell how popular held-out
items became.
"""

from pathlib import Path

import pandas as pd

from recbole_llm.convert.converted import Converted
from recbole_llm.convert.reading import Files, numbers, plain, words
from recbole_llm.errors import DataError

RATINGS, INFO = "anime_ratings.dat", "anime_info.dat"
_HEADERS = {
    RATINGS: ["User_ID", "Anime_ID", "Feedback"],
    INFO: ["anime_ids", "name", "genre", "type", "episodes", "rating", "members"],
}


def convert(source: Path) -> Converted:
    """Read ``anime.zip``, its folder, or a folder with the zip.

    Raises:
        DataError: a file is missing or malformed.
    """
    files = Files(source, "anime.zip")
    ratings, info = _rows(files, RATINGS), _rows(files, INFO)
    inter = pd.DataFrame([row[:2] for row in ratings], columns=["user_id", "item_id"], dtype=object)
    inter["rating"] = numbers((row[2] for row in ratings), f"{files.source}: {RATINGS}, Feedback")
    item = pd.DataFrame(
        [[row[0], plain(row[1]), words(row[2].split(", ")), row[3], row[4]] for row in info],
        columns=["item_id", "name", "genre", "type", "episodes"],
        dtype=object,
    )
    return Converted(inter, item, types={"rating": "float", "genre": "token_seq"})


def _rows(files: Files, name: str) -> list[list[str]]:
    header, *rows = files.rows(name, "\t", len(_HEADERS[name]))
    if header != _HEADERS[name]:
        raise DataError(
            f"{files.source}: the first line of {name} is '{' '.join(header)}' instead of "
            f"'{' '.join(_HEADERS[name])}'; it is of another format"
        )
    return rows
