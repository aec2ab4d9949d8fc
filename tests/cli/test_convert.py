"""``recbole-llm convert``: names, errors, and the example of docs/converting.md from tables to a RecBole dataset."""

import re
from pathlib import Path

import numpy as np
import pytest
from encoding_fakes import Counting, embedding_of

from recbole_llm.cli.dispatch import main
from recbole_llm.config import build_config
from recbole_llm.convert.aglrec import convert
from recbole_llm.convert.formats import FORMATS
from recbole_llm.data.atomic import read_atomic
from recbole_llm.data.dataset import load_data
from recbole_llm.data.feature_file import read_feature
from recbole_llm.encoding import choose
from recbole_llm.errors import DataError

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "converting.md").read_text(encoding="utf-8")


@pytest.fixture
def dump(tmp_path, monkeypatch):
    """The document's tables in ``dump/`` of the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = Path("dump")
    folder.mkdir()
    tables = re.findall(r"^`(\S+\.tsv)`:\n\n```text\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    assert len(tables) == 3
    for name, content in tables:
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def edit(dump, name, old, new):
    text = (dump / name).read_text(encoding="utf-8")
    assert old in text
    (dump / name).write_text(text.replace(old, new), encoding="utf-8")


class TestExample:
    def test_tables(self, dump, capsys):
        assert main(["convert", "aglrec", "--source", "dump", "--dataset", "bangumi"]) == 0
        inter = read_atomic("dataset/bangumi/bangumi.inter")
        assert inter.attrs["types"] == {
            "user_id": "token",
            "item_id": "token",
            "rating": "float",
            "timestamp": "float",
            "review_id": "token",
        }
        assert inter.values.tolist() == [
            ["1", "10", 9.0, 1682943300.0, "1/10"],
            ["1", "11", 0.0, 1683000000.0, ""],
            ["2", "10", 7.0, 1683104400.0, "2/10"],
            ["2", "12", 8.0, 1683300000.0, ""],
        ]
        item = read_atomic("dataset/bangumi/bangumi.item")
        assert item["tags"].tolist() == [["Slice\u00a0of\u00a0Life", "Mystery"], ["Space", "Drama"], ["Thriller"]]
        assert read_atomic("dataset/bangumi/bangumi.user").values.tolist() == [["1", "2012"], ["2", "2015"]]
        assert capsys.readouterr().out == (
            "wrote dataset/bangumi: 2 users, 3 items, 4 interactions; texts in .item_text.jsonl: 3 item_text; "
            "texts in .reviews.jsonl: 2 review; 1 interactions without a rating have the rating 0\n"
        )

    def test_features_and_the_dataset(self, dump, monkeypatch, capsys):
        uploads = []

        def make_encoder(options, kind, about_users):
            uploads.append(about_users)
            return Counting()

        monkeypatch.setattr(choose, "make_encoder", make_encoder)
        commands = re.findall(r"^recbole-llm (.* bangumi\b.*)$", DOCUMENT, flags=re.MULTILINE)
        assert len(commands) == 3
        for command in commands:
            assert main(command.split()) == 0
        assert uploads == [False, True]  # what people wrote is about people
        assert "2/2 reviews, 100.0%, 50.0% of interactions" in capsys.readouterr().out
        tokens, rows, metadata = read_feature(Path("dataset/bangumi/bangumi.review.safetensors"))
        assert tokens == ["1/10", "2/10"] and metadata["id_field"] == "review_id"
        np.testing.assert_allclose(rows[1], embedding_of("Slow, but worth it"), atol=1e-3)
        tokens, rows, metadata = read_feature(Path("dataset/bangumi/bangumi.item_text.safetensors"))
        text = "Mushishi. Tags: Slice of Life, Mystery. Summary: A wanderer studies what is neither plant nor animal."
        np.testing.assert_allclose(rows[0], embedding_of(text), atol=1e-3)
        columns = ["user_id", "item_id", "rating", "timestamp", "review_id"]
        load = {"inter": columns, "item": ["item_id", "name", "tags", "summary"], "user": ["user_id", "joined"]}
        base = load_data(build_config("BPR", "bangumi", config_dict={"load_col": load}), augment=False).base
        assert base.inter_num == 4 and set(base.field2id_token["review_id"]) == {"[PAD]", "1/10", "2/10"}
        assert set(base.field2id_token["tags"][1:]) == {
            "Slice\u00a0of\u00a0Life",
            "Mystery",
            "Space",
            "Drama",
            "Thriller",
        }
        assert list(base.field2id_token["name"][1:]) == ["Mushishi", "Planetes", "Monster"]
        assert base.inter_feat["review_id"].tolist().count(0) == 2


class TestAglrec:
    def test_the_last_state_of_an_interaction_counts(self, dump):
        edit(dump, "interactions.tsv", "2\t12\t8\t\t1683300000", "1\t10\t3\tWorse now.\t1600000000")
        made = convert(dump)
        assert made.inter["rating"].tolist() == [9.0, 0.0, 7.0]
        assert [row["review"] for row in made.texts["reviews"]] == ["A quiet marvel.", "Slow, but worth it"]
        assert "1 earlier states of an interaction left out" in made.summary(dump)

    def test_without_comments_times_ratings_and_users(self, dump):
        (dump / "interactions.tsv").write_text("subject_id\tuser_id\tcomment\n10\t1\t\n")
        (dump / "user.tsv").unlink()
        made = convert(dump)
        assert list(made.inter) == ["user_id", "item_id"] and set(made.texts) == {"item_text"} and made.user is None

    @pytest.mark.parametrize("tags", ["a b|c", "a b;c", "['a b', 'c']", '["a b", "c", ""]', "a b、c,c", "a b，c"])
    def test_tags(self, dump, tags):
        (dump / "anime.tsv").write_text("subject_id\tname\ttags_name\n" + f"10\tX\t{tags}\n")
        assert convert(dump).item["tags"][0] == ["a\u00a0b", "c"]
        assert convert(dump).texts["item_text"] == [{"item_id": "10", "item_text": "X. Tags: a b, c"}]

    def test_a_summary_that_begins_with_a_quote(self, dump, monkeypatch):
        edit(dump, "anime.tsv", "Thriller\t", 'Thriller\t"""Who"" is asked."')
        convert(dump).write(Path("dataset/d"))
        config = build_config("BPR", "d", config_dict={"load_col": {"item": ["item_id", "summary"]}})
        summaries = load_data(config, augment=False).base.field2id_token["summary"]
        assert len(summaries) == 4 and summaries[-1] == "'Who' is asked."

    @pytest.mark.parametrize(
        ("name", "old", "new", "message"),
        [
            ("anime.tsv", "subject_id", "id", r"anime.tsv has no column 'subject_id' \(columns: id, name"),
            ("interactions.tsv", "subject_id", "id", "interactions.tsv has no column 'subject_id'"),
            ("interactions.tsv", "\t9\t", "\tgood\t", "interactions.tsv, rate: 'good' is no number"),
            ("interactions.tsv", "1683000000", "yesterday", "updated_at: 'yesterday' is neither an ISO date nor"),
            ("interactions.tsv", "1683000000", "", "updated_at: '' is neither"),
            ("interactions.tsv", "1683000000", "1683000000123", "'1683000000123' are no Unix seconds; are they milli"),
            ("interactions.tsv", "A quiet", "A\tquiet", "interactions.tsv, line 2 has 6 fields instead of 5"),
            ("interactions.tsv", "A quiet", '"A quiet', "or a quote that nothing closes"),
            ("interactions.tsv", 'worth it"', "worth it", "or a quote that nothing closes"),
            ("interactions.tsv", "1\t11", "\t11", "a line of the source has an empty user_id"),
            ("anime.tsv", "\n11\t", "\n10\t", "item_id '10' is described twice"),
            ("user.tsv", "\n2\t", "\n1\t", "user_id '1' is described twice"),
        ],
    )
    def test_what_is_wrong_is_named(self, dump, name, old, new, message):
        edit(dump, name, old, new)
        with pytest.raises(DataError, match=message):
            convert(dump)

    def test_a_lone_quote_that_another_line_seems_to_close(self, dump):
        edit(dump, "interactions.tsv", "A quiet marvel.", '"A quiet marvel.')
        edit(dump, "interactions.tsv", '"Slow, but\nworth it"', '"So slow"')
        edit(dump, "interactions.tsv", "1683300000", "1683300000\n3\t12\t8\t\t1683300000")
        with pytest.raises(DataError, match="a quote that nothing closes"):
            convert(dump)

    def test_reviews_of_one_id(self, dump):
        edit(dump, "interactions.tsv", "1\t10\t9", "1/1\t10\t9")
        edit(dump, "interactions.tsv", "2\t10\t7", "1\t1/10\t7")
        with pytest.raises(DataError, match="two reviews would have one id"):
            convert(dump)


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--source", "absent"], "absent does not exist; name a folder or a zip with --source"),
            (["--source", "dump", "--dataset", "a/b"], "--dataset 'a/b' is no name for a folder"),
            (["--source", "dump", "--dataset", ""], "--dataset '' is no name for a folder"),
            (["--source", "dump", "--dataset", "ml-100k"], "RecBole reads ml-100k from its own package alone"),
        ],
    )
    def test_one_sentence_and_exit_code_2(self, dump, arguments, message, capsys):
        assert main(["convert", "aglrec", *arguments]) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: ") and message in shown and shown.count("\n") == 1
        assert not Path("dataset").exists()

    def test_what_is_there_is_replaced_only_when_told(self, dump, capsys):
        command = ["convert", "aglrec", "--source", "dump", "--out", "sets"]
        assert main(command) == 0 and main(command) == 2
        assert "sets/aglrec has aglrec.inter already; say --overwrite" in capsys.readouterr().err
        assert main([*command, "--overwrite"]) == 0

    def test_an_unknown_format(self, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["convert", "films", "--source", "x"])
        assert ended.value.code == 2 and "choose from anime, aglrec, ml-1m" in capsys.readouterr().err.replace("'", "")

    def test_a_dataset_may_be_called_otherwise_than_its_format(self, tmp_path, capsys):
        source = tmp_path / "source"
        source.mkdir()
        for part in ("train", "test"):
            (source / f"raw_{part}.txt").write_text("7\ta title\t1\t1:A\n")
        assert main(["convert", "dkn", "--source", str(source), "--out", str(tmp_path)]) == 0
        assert (tmp_path / "news-dkn" / "news-dkn.inter").is_file()

    @pytest.mark.parametrize("name", list(FORMATS))
    def test_every_format_has_its_function_and_its_row_in_the_documents(self, name, tmp_path):
        assert main(["convert", name, "--source", str(tmp_path)]) == 2  # an empty folder, which it has looked into
        assert f"| `{name}` |" in DOCUMENT
