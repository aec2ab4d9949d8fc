"""What is encoded, in which batches, and what comes back."""

import random

import numpy as np
import pytest
from encoding_fakes import Counting, embedding_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_llm.encoding.rows import encode_rows, make_plan, seconds_left
from recbole_llm.encoding.store import RowStore
from recbole_llm.errors import DataError

TEXTS = {f"t{k}": "word " * (k % 7) + str(k % 23) for k in range(60)}  # 60 tokens, fewer contents


def run(store, encoder, texts=TEXTS, dtype=np.float32, batch_size=4):
    plan = make_plan(texts, encoder, store, dtype, batch_size)
    return encode_rows(plan, encoder, store, dtype)


@pytest.fixture
def store(tmp_path):
    with RowStore(tmp_path / "s") as store:
        yield store


def test_each_token_has_the_row_of_its_text(store):
    made = run(store, Counting())
    assert made.tokens == list(TEXTS)
    expected = np.array([embedding_of(text) for text in TEXTS.values()], dtype=np.float32)
    np.testing.assert_array_equal(made.embedding, expected)
    half = run(store, Counting(), dtype=np.float16)
    assert half.embedding.dtype == np.float16 and half.new == made.new  # another dtype is another row


def test_a_content_is_encoded_once_and_never_again(store):
    encoder = Counting()
    made = run(store, encoder)
    forwarded = [text for batch in encoder.batches for text in batch]
    assert len(forwarded) == len(set(forwarded)) == len(set(TEXTS.values())) == made.new and made.reused == 0
    again = run(store, never := Counting(fail_at=0))
    assert never.batches == [] and again.new == 0 and again.reused == made.new
    np.testing.assert_array_equal(again.embedding, made.embedding)


def test_only_what_has_changed_is_encoded(store):
    run(store, Counting())
    encoder = Counting()
    made = run(store, encoder, TEXTS | {"t3": "another", "new": "more"})
    assert sorted(text for batch in encoder.batches for text in batch) == ["another", "more"] and made.new == 2
    assert made.embedding[3].tolist() == pytest.approx(embedding_of("another"))
    other = Counting(revision="2")
    assert run(store, other).new == len(set(TEXTS.values()))


def test_long_texts_come_first_and_batches_are_full(store):
    encoder = Counting()
    run(store, encoder)
    lengths = [len(text) for batch in encoder.batches for text in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(batch) == 4 for batch in encoder.batches[:-1])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 6), max_size=6), st.integers(0, 10**6), st.integers(1, 3))
def test_broken_off_and_begun_again_it_forwards_the_batches_of_an_unbroken_run(tmp_path, stops, seed, requests):
    """So an encoder whose last bits depend on the batch gives the same file."""
    order = list(TEXTS)
    random.Random(seed).shuffle(order)
    texts = {token: TEXTS[token] for token in order}
    where = tmp_path / f"{random.random()}"
    with RowStore(where / "whole") as store:
        run(store, whole := Counting(), texts)
    seen: list[list] = []
    with RowStore(where / "broken") as store:
        for stop in stops:
            encoder = Counting(fail_at=stop, requests=requests)
            plan = make_plan(texts, encoder, store, np.float32, 4)
            try:
                encode_rows(plan, encoder, store, np.float32)
            except RuntimeError:
                pass
            seen += encoder.batches
        run(store, last := Counting(), texts)
    assert {tuple(batch) for batch in seen + last.batches} == {tuple(batch) for batch in whole.batches}


def test_what_an_encoder_may_not_give(store):
    class Wrong(Counting):
        rows = np.zeros((1, 2), dtype=np.float32)

        def encode(self, contents):
            return self.rows

    with pytest.raises(DataError, match=r"\[1, 2\] for 2 contents"):
        run(store, Wrong(), {"a": "x", "b": "y"})
    Wrong.rows = np.array([[np.nan, 1]])
    with pytest.raises(DataError, match="row of 'x' is not finite"):
        run(store, Wrong(), {"a": "x"})
    Wrong.rows = np.ones((1, 2))
    run(store, Wrong(), {"a": "x"})
    Wrong.rows = np.ones((1, 3))
    with pytest.raises(DataError, match=r"rows of 2 sizes \(\[2, 3\]\)"):
        run(store, Wrong(), {"a": "x", "b": "y"})


def test_the_estimate_keeps_what_it_encodes(store):
    encoder = Counting()
    plan = make_plan(TEXTS, encoder, store, np.float32, 4)
    assert seconds_left(plan, encoder, store, np.float32) > 0
    assert len(make_plan(TEXTS, encoder, store, np.float32, 4).todo) == len(plan.todo) - 4
    run(store, encoder)
    done = make_plan(TEXTS, encoder, store, np.float32, 4)
    assert done.todo == [] and seconds_left(done, encoder, store, np.float32) == 0.0
