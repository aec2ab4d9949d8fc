"""The formats that ``recbole-llm convert`` reads; a new one is a module beside this one and a line here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        reads: what ``--source`` is, for the help.
        convert: ``module:function``, imported when chosen; the function makes a ``Converted`` of the source's path.
        dataset: what the dataset is called unless told otherwise; "": as the format.
    """

    reads: str
    convert: str
    dataset: str = ""


FORMATS = {
    "anime": Format(
        "ratings of MyAnimeList: anime.zip, or a folder with it or with anime_ratings.dat and anime_info.dat",
        "recbole_llm.convert.anime:convert",
    ),
    "aglrec": Format(
        "comments and ratings of anime: a folder with interactions.tsv, anime.tsv and, where there is one, user.tsv",
        "recbole_llm.convert.aglrec:convert",
    ),
    "ml-1m": Format(
        "MovieLens 1M: GroupLens' folder or zip (ratings.dat, movies.dat, users.dat), or RecBole's ml-1m.inter[.gz]; "
        "beside them, where there are, plots (movies_extrainfos.dat) and descriptions (llm_response_item.json)",
        "recbole_llm.convert.movielens:convert",
    ),
    "mind": Format(
        "news and what was shown of them (MIND): a folder with news.tsv and behaviors.tsv, or one with such folders or "
        "zips, as MINDsmall_train and MINDsmall_dev; entity_embedding.vec where there is one",
        "recbole_llm.convert.mind:convert",
    ),
    "dkn": Format(
        "titles of news with entities (DKN): a folder with raw_train.txt and raw_test.txt",
        "recbole_llm.convert.dkn:convert",
        dataset="news-dkn",
    ),
}
