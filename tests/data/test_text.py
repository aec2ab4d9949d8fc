"""Rows -> texts: exact strings, and what counts as no text."""

import hashlib

import pytest

from recbole_llm.data import text

ROWS = [
    {"item_id": "10", "mood": "warm,  witty", "class": ["Comedy", "Children's"], "year": "1995"},
    {"item_id": 2, "mood": "", "class": ["unknown"], "year": "1996"},
    {"item_id": "3", "mood": " \t\n", "class": [], "year": ""},
    {"item_id": "4", "mood": "dark", "class": ["an", "unknown", "killer"], "year": "1941"},
]


def test_field_texts_collapse_white_space_and_leave_out_empty_texts():
    assert text.field_texts(ROWS, "mood") == {"10": "warm, witty", "4": "dark"}


def test_field_texts_of_an_absent_field_are_none():
    assert text.field_texts(ROWS, "plot") == {}


def test_field_texts_by_another_id_field():
    assert text.field_texts([{"user_id": "u7", "taste": "noir"}], "taste", "user_id") == {"u7": "noir"}


def test_joined_texts_leave_out_unknown_and_empty_fields():
    made = text.joined_texts(ROWS, ["class", "mood"])
    assert made == {"10": "Comedy Children's. warm, witty", "4": "an unknown killer. dark"}
    numbers = [{"item_id": 1, "price": 12.0, "rate": float("nan"), "x": None, "time": 978300760.0, "y": 0.1}]
    assert text.joined_texts(numbers, ["price", "rate", "x", "time", "y"]) == {"1": "12. 978300760. 0.1"}


def test_template_texts_join_sequences():
    made = text.template_texts(ROWS, "{class:, }")
    assert made == {"10": "Comedy, Children's", "4": "an, unknown, killer"}
    made = text.template_texts(ROWS[:2], "{class} ({year})")
    assert made == {"10": "Comedy Children's (1995)", "2": "(1996)"}


def test_template_texts_leave_out_empty_texts():
    assert text.template_texts(ROWS, "{year}") == {"10": "1995", "2": "1996", "4": "1941"}


def test_template_texts_raise_on_a_field_that_no_row_has():
    with pytest.raises(KeyError, match="director"):
        text.template_texts(ROWS, "{director}")


def test_texts_sha256_depends_on_token_text_and_order():
    texts = {"1": "a", "2": "b"}
    assert text.texts_sha256(texts) == hashlib.sha256(b"1\ta\n2\tb\n").hexdigest()
    others = ({"1": "a", "2": "c"}, {"1": "a", "3": "b"}, {"2": "b", "1": "a"})
    assert text.texts_sha256(texts) not in {text.texts_sha256(other) for other in others}
