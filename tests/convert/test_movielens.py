"""MovieLens 1M: GroupLens' files, RecBole's, and what lies beside them."""

import gzip
import json

import pytest

from recbole_llm.config import build_config
from recbole_llm.convert.movielens import convert
from recbole_llm.data.dataset import load_data
from recbole_llm.errors import DataError

MOVIES = "1::Toy Story (1995)::Animation|Children's\n2::Misérables, Les (1995)::Drama\n3::Untitled::Drama\n"
EXTRA = (
    "1::Toy Story::1995::G::22 Nov 1995::Animation, Comedy::John Lasseter::A B (story by), C::Tom Hanks, Tim Allen"
    "::A boy and his toys.::https://x\r\n"
    "2::Heat::1995::N/A::N/A::Crime::N/A::N/A::N/A::N/A::N/A\r\n"
)


def write(folder, **files):
    for name, content in files.items():
        name = name.replace("_dat", ".dat").replace("_inter", ".inter").replace("__", "-").replace("_json", ".json")
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def grouplens(tmp_path):
    ratings = "1::1::5::978300760\n1::2::3::978302109\n2::1::4::978300000\n"
    write(tmp_path, ratings_dat=ratings, movies_dat=MOVIES.encode("latin-1"), users_dat="1::F::1::10::48067\n")
    return tmp_path


@pytest.fixture
def recbole(tmp_path):
    inter = "user_id:token\titem_id:token\trating:float\tseq_pos:float\n1\t1\t5\t-1\n1\t2\t4\t0\n"
    write(tmp_path, ml__1m_inter=inter, movies_extrainfos_dat=EXTRA)
    return tmp_path


def test_files_of_grouplens(grouplens):
    made = convert(grouplens)
    assert made.inter.values.tolist()[1] == ["1", "2", 3.0, 978302109.0]
    assert made.item.values.tolist() == [
        ["1", "Toy Story", "1995", ["Animation", "Children's"]],
        ["2", "Misérables, Les", "1995", ["Drama"]],
        ["3", "Untitled", "", ["Drama"]],
    ]
    assert made.user.values.tolist() == [["1", "F", "1", "10", "48067"]] and made.texts == {}


def test_files_of_recbole_and_melu(recbole):
    made = convert(recbole)
    assert made.types["seq_pos"] == "float" and made.inter["seq_pos"].tolist() == [-1.0, 0.0] and made.user is None
    heat = made.item[made.item["item_id"] == "2"].iloc[0]
    assert heat[["certificate", "director", "plot"]].tolist() == ["", [], ""] and heat["genres"] == ["Crime"]
    assert made.item["actors"][0] == ["Tom\u00a0Hanks", "Tim\u00a0Allen"]
    assert made.texts["item_text"] == [{"item_id": "1", "plot": "A boy and his toys."}]


@pytest.mark.parametrize("layout", ["grouplens", "recbole"])
def test_the_settings_of_the_dataset_fit_either(layout, request, tmp_path):
    convert(request.getfixturevalue(layout)).write(tmp_path / "ml-1m")
    config = build_config("BPR", "ml-1m", config_dict={"data_path": str(tmp_path), "protocol": "rs-full"})
    loaded = load_data(config, augment=False).base.inter_feat.columns
    assert set(loaded) == {"user_id", "item_id", "rating", "timestamp" if layout == "grouplens" else "seq_pos"}
    assert set(config["features"]) == {"plot", "description"}


def test_a_packed_file_in_a_folder_below(recbole):
    raw = (recbole / "ml-1m.inter").read_bytes()
    (recbole / "ml-1m.inter").unlink()
    (recbole / "derived").mkdir()
    (recbole / "derived" / "ml-1m.inter.gz").write_bytes(gzip.compress(raw))
    assert len(convert(recbole).inter) == 2


def test_times_of_grouplens_go_before(recbole, grouplens):
    assert "timestamp" in convert(grouplens).inter


def test_descriptions_count_only_by_their_titles(grouplens):
    described = {"1": "Toy  Story (1995) is about toys.", "2": "Les Misérables is long.", "3": '"Untitled" it is.'}
    write(grouplens, llm_response_item_json=json.dumps(described))
    made = convert(grouplens)
    assert [row["description"] for row in made.texts["item_text"]] == [" ".join(t.split()) for t in described.values()]
    shifted = dict(zip("123", [described["2"], described["3"], described["1"]], strict=True))
    write(grouplens, llm_response_item_json=json.dumps(shifted))
    made = convert(grouplens)
    assert made.texts == {} and "llm_response_item.json left out: only 0% of its texts" in made.summary("d")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ratings_dat": "1::1::5\n"}, "ratings.dat, line 1 has 3 fields instead of 4"),
        ({"ratings_dat": "1::1::x::9\n"}, "ratings.dat, rating: 'x' is no number"),
        ({"ratings_dat": b""}, "ratings.dat is empty"),
        ({"llm_response_item_json": "{"}, "llm_response_item.json is not JSON"),
        ({"llm_response_item_json": "[1]"}, "llm_response_item.json must be one object of texts"),
    ],
)
def test_what_is_wrong_is_named(grouplens, files, message):
    write(grouplens, **files)
    with pytest.raises(DataError, match=message):
        convert(grouplens)


def test_files_that_are_missing(grouplens):
    (grouplens / "movies.dat").unlink()
    with pytest.raises(DataError, match="has no file movies.dat"):
        convert(grouplens)
    (grouplens / "ratings.dat").unlink()
    with pytest.raises(DataError, match="has neither ratings.dat nor ml-1m.inter nor ml-1m.inter.gz"):
        convert(grouplens)


def test_a_wrong_atomic_file(recbole):
    write(recbole, ml__1m_inter="user\titem\n1\t2\n")
    with pytest.raises(DataError, match="ml-1m.inter must have the columns user_id:token and item_id:token"):
        convert(recbole)


@pytest.mark.slow
def test_the_set_itself(shared_data):
    made = convert(shared_data / "ml-1m")
    assert made.inter[["user_id", "item_id"]].nunique().tolist() == [6040, 3706] and len(made.inter) == 1_000_206
    rows = made.texts["item_text"]
    assert sum("description" in row for row in rows) >= 3882 and sum(bool(row.get("plot")) for row in rows) == 3845
