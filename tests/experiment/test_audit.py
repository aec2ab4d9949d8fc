"""Texts about users that know held-out items are caught, others are not."""

import json
import random

import pytest

from recbole_llm.cli import main
from recbole_llm.errors import DataError
from recbole_llm.experiment.audit import named_items, normal, normal_titles, read_user_texts

TITLES = {f"i{k}": f"The {word} of {k}" for k, word in enumerate(["Song", "House", "Fall", "Rise"] * 25)}


@pytest.mark.parametrize(
    ("title", "sentence"),
    [
        ("Net, The", "I liked the net."),
        ("Amélie (2001)", "AMELIE, of course"),
        ("Cité des enfants perdus, La (City of Lost Children, The)", "la cite des enfants perdus!"),
        ("Cité des enfants perdus, La (City of Lost Children, The)", "The City of Lost Children"),
        ("101 Dalmatians", "both 101 Dalmatians films"),
        ("七人の侍", "a taste for 「七人の侍」 and others"),
        ("Брат (1997)", "Любит «Брат»."),
    ],
)
def test_titles_as_a_sentence_has_them(title, sentence):
    assert any(f" {name} " in f" {normal(sentence)} " for name in normal_titles(title))


def test_what_is_no_title():
    assert normal_titles("Heat (1995)") == ("heat",) and normal_titles("(1995)") == () and normal_titles("?!") == ()


def histories(seed: int):
    """(user, items seen in training, item held out)."""
    rng = random.Random(seed)
    for k in range(200):
        items = rng.sample(sorted(TITLES), 9)
        yield f"u{k}", items[:8], items[8]


def told(items) -> str:
    return "Likes " + ", ".join(TITLES[item] for item in items) + " and much else."


def test_texts_from_training_rows_pass():
    rows = list(histories(0))
    found = named_items("test", {u: told(seen) for u, seen, _ in rows}, [(u, last) for u, _, last in rows], TITLES)
    assert found.users == 200 and found.named == 0 and not found.leaks and found.examples == ()


def test_texts_that_name_popular_items_pass():
    """An item that everybody has, and every text names, is no sign of a leak."""
    rows = [(u, seen, "i1") for u, seen, _ in histories(0)]
    found = named_items("test", {u: told([*seen, "i1"]) for u, seen, _ in rows}, [(u, i) for u, _, i in rows], TITLES)
    assert found.named == 200 and found.chance == 1.0 and not found.leaks


def test_a_few_texts_that_know_the_future_are_caught():
    rows = list(histories(0))
    texts = {u: told([*seen, last] if k < 60 else seen) for k, (u, seen, last) in enumerate(rows)}
    found = named_items("test", texts, [(u, last) for u, _, last in rows], TITLES)
    assert found.named == 60 and found.share == 0.3 and found.chance < 0.15 and found.leaks
    assert found.examples[0] == ("u0", TITLES[rows[0][2]])
    assert "test: 60 of 200 users (30.0%) have a held-out item named" in found.text()


def test_a_word_within_a_word_is_no_title():
    found = named_items("test", {"u": "the internet", "v": "x"}, [("u", "i"), ("v", "i")], {"i": "Net"})
    assert found.named == 0


def test_users_of_another_dataset():
    with pytest.raises(DataError, match="no user of the texts has a test item with a title"):
        named_items("test", {"someone": "text"}, [("u", "i0")], TITLES)


class TestFiles:
    def test_both_forms(self, tmp_path):
        (tmp_path / "a.json").write_text('{"7": "likes x", "8": {"taste": "y"}}')
        assert read_user_texts(tmp_path / "a.json") == {"7": "likes x", "8": '{"taste": "y"}'}
        (tmp_path / "two.jsonl").write_text('{"user_id": 7, "a": "x"}\n{"user_id": 7, "a": ["Amélie", null]}\n')
        assert read_user_texts(tmp_path / "two.jsonl", "a") == {"7": 'x ["Amélie", null]'}
        (tmp_path / "b.jsonl").write_text('{"user_id": 7, "a": "x", "b": "y"}\n\n{"user_id": "8", "a": "z", "b": ""}\n')
        assert read_user_texts(tmp_path / "b.jsonl") == {"7": "x y", "8": "z "}
        assert read_user_texts(tmp_path / "b.jsonl", "a") == {"7": "x", "8": "z"}
        (tmp_path / "c.jsonl").write_text('{"user_id": 7, "a": "x"}')
        assert read_user_texts(tmp_path / "c.jsonl") == {"7": "x"}

    @pytest.mark.parametrize("text", ["[1]", '{"a": 1}\n{"a": 2}', "no json"])
    def test_what_is_neither(self, tmp_path, text):
        (tmp_path / "x").write_text(text)
        with pytest.raises(DataError, match="line 1 is no JSON object with user_id"):
            read_user_texts(tmp_path / "x")

    def test_a_field_that_is_not_there(self, tmp_path):
        (tmp_path / "x").write_text('{"user_id": 7, "a": "x"}')
        with pytest.raises(DataError, match="line 1 has no field 'b'"):
            read_user_texts(tmp_path / "x", "b")


@pytest.mark.slow
def test_profiles_written_from_whole_histories_are_caught(shared_data, capsys):
    """UR4Rec's published preferences of ml-100k: a seventh of the users have their very last film named."""
    file = shared_data / "ml-100k-text" / "ur4rec_user_preferences.json"
    assert main(["audit", "--dataset", "ml-100k", "--texts", str(file), "--json"]) == 1
    shown = capsys.readouterr().out
    found = json.loads(shown.splitlines()[-1])
    test = next(part for part in found["parts"] if part["part"] == "test")
    assert found["leaks"] and test["users"] == 938 and 120 <= test["named"] <= 160 and test["chance"] < 0.03
    assert "these texts know held-out items" in shown


def test_what_is_wrong_is_one_sentence(tmp_path, capsys):
    assert main(["audit", "--dataset", "ml-100k", "--texts", str(tmp_path / "absent")]) == 2
    (tmp_path / "texts").write_text('{"1": "x"}')
    assert main(["audit", "--dataset", "ml-100k", "--texts", str(tmp_path / "texts"), "--title", "titel"]) == 2
    assert main(["audit", "--dataset", "ml-100", "--texts", str(tmp_path / "texts")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "no such file of texts" in errors[0] and "has no column 'titel'" in errors[1] and "not found" in errors[2]
