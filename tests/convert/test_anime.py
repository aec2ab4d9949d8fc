"""Anime ratings: a small folder, and the set itself."""

import pytest

from recbole_llm.config import build_config
from recbole_llm.convert.anime import convert
from recbole_llm.data.dataset import load_data
from recbole_llm.encoding.sources import column_texts
from recbole_llm.errors import DataError

RATINGS = "User_ID\tAnime_ID\tFeedback\n1\t7\t8\n2\t7\t10\n"
INFO = (
    "anime_ids\tname\tgenre\ttype\tepisodes\trating\tmembers\n"
    "7\tWolf&#039;s Rain\tSlice of Life, Drama\tTV\t26\t8.0\t123\n"
    "8\t&quot;0&quot;\t\tMusic\t1\t5.0\t9\n"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "anime_ratings.dat").write_text(RATINGS)
    (tmp_path / "anime_info.dat").write_text(INFO)
    return tmp_path


def test_a_small_folder(folder):
    made = convert(folder)
    assert made.inter.values.tolist() == [["1", "7", 8.0], ["2", "7", 10.0]]
    assert list(made.item) == ["item_id", "name", "genre", "type", "episodes"]  # no fame of the whole site
    made.write(folder / "anime")
    texts = column_texts(folder / "anime" / "anime.item", template="{name}. {genre:, }. {type}")[1]
    assert texts == {"7": "Wolf's Rain. Slice of Life, Drama. TV", "8": "'0'. . Music"}


def test_the_settings_of_the_dataset_fit(folder):
    convert(folder).write(folder / "anime")
    config = build_config("BPR", "anime", config_dict={"data_path": str(folder), "protocol": "rs-full"})
    assert load_data(config, augment=False).base.inter_feat["rating"].tolist() == [8, 10]
    assert config["features"] == {"text": {"side": "item", "missing": "error"}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("anime_ratings.dat", "user,anime\n1,7\n", "anime_ratings.dat, line 1 has 1 fields instead of 3"),
        ("anime_ratings.dat", "u\ti\tr\n1\t7\t8\n", "the first line of anime_ratings.dat is 'u i r' instead of"),
        ("anime_ratings.dat", RATINGS + "1\t8\tgood\n", "anime_ratings.dat, Feedback: 'good' is no number"),
        ("anime_info.dat", INFO + "9\tX\n", "anime_info.dat, line 4 has 2 fields instead of 7"),
        ("anime_info.dat", INFO + INFO.split("\n")[1] + "\n", "item_id '7' is described twice"),
        ("anime_info.dat", None, "has no file anime_info.dat"),
    ],
)
def test_what_is_wrong_is_named(folder, name, content, message):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        convert(folder)


def test_the_set_itself(shared_data):
    made = convert(shared_data / "anime" / "anime.zip")
    assert made.inter[["user_id", "item_id"]].nunique().tolist() == [4714, 7157] and len(made.inter) == 419_943
    assert set(made.inter["item_id"]) <= set(made.item["item_id"]) and len(made.item) == 7390
    assert made.inter["rating"].between(1, 10).all() and not made.item["name"].str.contains("&#|&amp;").any()
    assert made.item["genre"].map(bool).sum() == 7387
    assert not made.item["name"].str.startswith('"').any()
