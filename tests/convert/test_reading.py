"""Files of folders and zips, and text that survives RecBole's reader."""

import gzip
import zipfile

import pandas as pd
import pytest

from recbole_llm.convert.reading import Files, numbers, plain, words
from recbole_llm.data.atomic import read_atomic, write_atomic
from recbole_llm.encoding.sources import column_texts
from recbole_llm.errors import DataError


class TestFiles:
    def test_a_folder_and_those_right_below_it(self, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "a.dat").write_bytes(b"1::x\r\n\r\n2::y\r\n")
        (tmp_path / "sub" / "b.inter.gz").write_bytes(gzip.compress("\ufeffé\n".encode()))
        files = Files(tmp_path)
        assert files.rows("a.dat", "::", 2) == [["1", "x"], ["2", "y"]]
        assert files.text("b.inter.gz") == "é\n" and not files.has("c")

    def test_a_zip_and_a_folder_with_it(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as opened:
            opened.writestr("set/a.dat", "1\t2\n")
        for source, archive in ((tmp_path / "set.zip", ""), (tmp_path, "set.zip")):
            assert Files(source, archive).rows("a.dat", "\t", 2) == [["1", "2"]]
        assert not Files(tmp_path, "other.zip").has("a.dat")

    def test_other_encodings(self, tmp_path):
        (tmp_path / "a.dat").write_bytes("Misérables".encode("latin-1"))
        assert Files(tmp_path).text("a.dat", "latin-1") == "Misérables"
        with pytest.raises(DataError, match="a.dat: byte 3 is not UTF-8"):
            Files(tmp_path).text("a.dat")

    def test_what_is_wrong_is_named(self, tmp_path):
        with pytest.raises(DataError, match="absent does not exist; name a folder or a zip with --source"):
            Files(tmp_path / "absent")
        (tmp_path / "no.zip").write_bytes(b"PK no zip")
        with pytest.raises(DataError, match="no.zip is neither a folder nor a zip"):
            Files(tmp_path / "no.zip")
        (tmp_path / "a.dat").write_text("1\t2\n3\n")
        (tmp_path / "e.dat").write_text("\n")
        (tmp_path / "cut.gz").write_bytes(gzip.compress(b"1234" * 99)[:-9])
        with pytest.raises(DataError, match="a.dat, line 2 has 1 fields instead of 2"):
            Files(tmp_path).rows("a.dat", "\t", 2)
        with pytest.raises(DataError, match="e.dat is empty"):
            Files(tmp_path).rows("e.dat", "\t", 2)
        with pytest.raises(DataError, match="cut.gz is damaged"):
            Files(tmp_path).text("cut.gz")
        with pytest.raises(DataError, match="has no file b.dat; put it there"):
            Files(tmp_path).text("b.dat")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a.dat").write_text("4\t5\n")
        with pytest.raises(DataError, match=r"has 2 files a.dat \(.*sub/a.dat\); keep one"):
            Files(tmp_path).text("a.dat")

    def test_a_damaged_member_of_a_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as opened:
            opened.writestr("a.dat", "1234567890" * 9)
        raw = (tmp_path / "set.zip").read_bytes()
        (tmp_path / "set.zip").write_bytes(raw.replace(b"1234567890", b"1234567891", 1))
        with pytest.raises(DataError, match="a.dat is damaged"):
            Files(tmp_path / "set.zip").text("a.dat")


def test_numbers():
    assert numbers(["1", "2.5"], "f") == [1.0, 2.5]
    for wrong in ("", "x", "nan", "inf"):
        with pytest.raises(DataError, match=f"f, rate: '{wrong}' is no number"):
            numbers(["1", wrong], "f, rate")


def test_plain():
    assert plain("  Gintama&#039;\t&amp;\r\nmore\0 ") == "Gintama' & more"
    assert plain("&quot;A&quot; and B") == "'A' and B" and plain('A "B"') == 'A "B"'


def test_words_are_one_for_recbole_and_read_naturally(tmp_path):
    genres = words(["Slice of Life", "Sci-Fi", "", "Sci-Fi"])
    frame = pd.DataFrame({"item_id": ["1"], "name": ["X"], "genre": [genres]})
    write_atomic(tmp_path / "d.item", frame, {"item_id": "token", "name": "token", "genre": "token_seq"})
    assert len(read_atomic(tmp_path / "d.item")["genre"][0]) == 2
    assert column_texts(tmp_path / "d.item", template="{name}. {genre:, }")[1] == {"1": "X. Slice of Life, Sci-Fi"}
    assert column_texts(tmp_path / "d.item", ["genre"])[1] == {"1": "Slice of Life Sci-Fi"}
