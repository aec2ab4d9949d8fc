"""Columns, lines and images -> contents by token."""

import json

import numpy as np
import pytest
from PIL import Image

from recbole_llm.encoding.sources import column_texts, image_files, line_texts, split_broken, upright
from recbole_llm.errors import ConfigError, DataError

ITEMS = (
    "item_id:token\ttitle:token_seq\tyear:token\tgenres:token_seq\tprice:float\n"
    "b\tToy Story\t1995\tAnimation Comedy\t9.5\n"
    "a\tunknown\t\t\t\n"
    "c\tHeat\t1995\tunknown\t12\n"
)


@pytest.fixture
def items(tmp_path):
    (tmp_path / "d.item").write_text(ITEMS)
    return tmp_path / "d.item"


def lines(tmp_path, *rows):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


class TestColumns:
    def test_joined(self, items):
        id_field, texts = column_texts(items, ["title", "genres"])
        assert id_field == "item_id"
        assert texts == {"b": "Toy Story. Animation Comedy", "c": "Heat"}

    def test_numbers_are_short(self, items):
        assert column_texts(items, ["price"])[1] == {"b": "9.5", "c": "12"}

    def test_template(self, items):
        texts = column_texts(items, template="{title} ({year}),  {genres:, }")[1]
        assert texts == {"b": "Toy Story (1995), Animation, Comedy", "c": "Heat (1995),"}

    @pytest.mark.parametrize("how", [{"columns": ["titel"]}, {"template": "{titel}"}, {"columns": ["item_id"]}])
    def test_a_column_that_is_not_there(self, items, how):
        with pytest.raises(ConfigError, match="has no column '(titel|item_id)' .*: title, year, genres, price"):
            column_texts(items, **how)

    def test_a_broken_template(self, items):
        with pytest.raises(ConfigError, match="--template: "):
            column_texts(items, template="{title")

    def test_the_id_column_need_not_be_the_first(self, tmp_path):
        path = tmp_path / "d.user"
        path.write_text("age:token\tuser_id:token\n24\tu1\n24\tu2\n")
        assert column_texts(path, ["age"], id_field="user_id") == ("user_id", {"u1": "24", "u2": "24"})
        with pytest.raises(DataError, match="age '24' has two lines"):
            column_texts(path, ["user_id"], id_field="item_id")

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match="d.user does not exist"):
            column_texts(tmp_path / "d.user", ["age"])


class TestLines:
    def test_fields_of_items_and_of_users(self, tmp_path):
        path = lines(tmp_path, {"item_id": 1, "plot": "a  plot", "n": 3}, "", {"item_id": "2", "plot": "", "mood": "m"})
        assert line_texts(path, []) == ("item_id", {"plot": {"1": "a plot"}, "mood": {"2": "m"}})
        assert line_texts(path, ["mood"]) == ("item_id", {"mood": {"2": "m"}})
        path = lines(tmp_path, {"user_id": "u", "taste": "noir"})
        assert line_texts(path, ["taste"]) == ("user_id", {"taste": {"u": "noir"}})

    def test_fields_of_interactions(self, tmp_path):
        path = lines(tmp_path, {"user_id": "u", "item_id": "1", "review_id": "r", "review": "so so"})
        assert line_texts(path, []) == ("review_id", {"review": {"r": "so so"}})
        with pytest.raises(DataError, match="line 2 has no review_id"):
            line_texts(lines(tmp_path, {"review_id": "r", "review": "x"}, {"item_id": "1", "review": "y"}), [])

    @pytest.mark.parametrize(
        ("rows", "error", "message"),
        [
            (['{"item_id": 1,'], DataError, "line 1 is not JSON"),
            (["[1]"], DataError, "line 1 has no item_id"),
            ([{"item_id": 1, "a": "x"}, {"user_id": 2}], DataError, "line 2 has no item_id"),
            ([{"item_id": 1, "a": "x"}, {"item_id": "1"}], DataError, "line 2 is the second of item_id '1'"),
            ([], DataError, "holds no line"),
            ([{"item_id": 1, "user_id": 2, "a": "x"}], DataError, "line 1 has item_id and user_id"),
            ([{"item_id": 1, "b": "x"}], ConfigError, "no text field 'a'; choose from: b"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, rows, error, message):
        with pytest.raises(error, match=message):
            line_texts(lines(tmp_path, *rows), ["a"])

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match="no such text file"):
            line_texts(tmp_path / "absent.jsonl", [])


class TestImages:
    def test_by_the_name(self, tmp_path):
        pixels = np.zeros((5, 4, 3), dtype=np.uint8)
        for name in ("1.png", "b.JPG", "c.webp"):
            Image.fromarray(pixels).save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("no image")
        assert {token: path.name for token, path in image_files(tmp_path).items()} == {
            "1": "1.png",
            "b": "b.JPG",
            "c": "c.webp",
        }

    def test_broken_ones_are_told_apart(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "whole.jpg")
        raw = (tmp_path / "whole.jpg").read_bytes()
        (tmp_path / "cut.jpg").write_bytes(raw[: len(raw) // 2])
        (tmp_path / "empty.png").write_bytes(b"")
        (tmp_path / "text.png").write_text("no image at all")
        good, broken = split_broken(image_files(tmp_path))
        assert list(good) == ["whole"] and set(broken) == {"cut", "empty", "text"}
        assert "truncated" in broken["cut"] and broken["text"] == "no image that is known"

    def test_a_damaged_note_of_the_camera_costs_the_note(self, tmp_path):
        image = Image.fromarray(np.full((8, 8, 3), 90, dtype=np.uint8))
        orientation = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\xff\xff"  # of type short: turned, and then cut off
        exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x02" + orientation + b"\x01\x1a\x00\x05"
        image.save(tmp_path / "a.jpg", exif=exif)
        good, broken = split_broken(image_files(tmp_path))
        assert list(good) == ["a"] and broken == {} and upright(good["a"]).size == (8, 8)

    def test_depth_and_transparency(self, tmp_path):
        deep = np.array([[0, 32768], [65535, 16384]], dtype=np.uint16)
        Image.fromarray(deep).save(tmp_path / "deep.png")
        assert np.asarray(upright(tmp_path / "deep.png"))[..., 0].tolist() == [[0, 127], [255, 63]]
        glass = np.zeros((2, 2, 4), dtype=np.uint8)
        glass[0, 0] = (10, 20, 30, 255)
        Image.fromarray(glass).save(tmp_path / "glass.png")
        assert np.asarray(upright(tmp_path / "glass.png")).tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3] * 2]

    def test_two_of_one_token_and_none(self, tmp_path):
        with pytest.raises(DataError, match="has no images"):
            image_files(tmp_path)
        for name in ("1.png", "1.jpg"):
            (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match="two images of '1'"):
            image_files(tmp_path)
        with pytest.raises(DataError, match="is no folder"):
            image_files(tmp_path / "absent")
