"""``recbole-llm encode``: texts of a dataset -> feature files ``<dataset>.<feature>.safetensors``."""

import argparse
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from recbole_llm.errors import ConfigError, DataError, MissingDependencyError
from recbole_llm.paths import dataset_atomic_dir

FACETS_FILE = "item_facets.jsonl"
FACETS = ("content", "theme", "quality", "mood", "style", "visual", "director", "country", "language")
ENCODER = "all-MiniLM-L6-v2"
GENRE = "genre"  # from the dataset's own .item file, not from the facets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm encode",
        description="Encode the texts of a dataset and write one feature file per text field.",
        epilog=f"The texts are read from dataset_atomic/<dataset>/{FACETS_FILE}; '{GENRE}' is read from the genre "
        "words of <dataset>.item. A token whose text is empty gets no row. Needs: pip install 'recbole-llm[text]'.",
    )
    parser.add_argument("--dataset", required=True, help="name of the dataset, for example ml-100k")
    parser.add_argument("--features", default=",".join((*FACETS, GENRE)), help="comma-separated; default: all ten")
    parser.add_argument("--texts", type=Path, help=f"JSON lines with the texts; default: {FACETS_FILE}")
    parser.add_argument("--items", type=Path, help="folder of <dataset>.item; for ml-100k RecBole's own")
    parser.add_argument(
        "--genre-field", default="class", help=f"column of <dataset>.item for '{GENRE}'; default: class"
    )
    parser.add_argument("--out", type=Path, help="folder to write to; default: dataset_atomic/<dataset>")
    parser.add_argument("--encoder", default=ENCODER, help=f"{ENCODER} (default) or a SentenceTransformer folder")
    parser.add_argument("--batch-size", type=int, default=64, help="texts per forward pass; default: 64")
    parser.add_argument("--float32", action="store_true", help="write float32 instead of float16")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def default_item_folder(dataset: str) -> Path:
    """Folder of ``<dataset>.item``: RecBole forces its packaged copy for ml-100k, the others lie in dataset_atomic."""
    if dataset != "ml-100k":
        return dataset_atomic_dir() / dataset
    spec = importlib.util.find_spec("recbole")
    if spec is None:
        raise MissingDependencyError("RecBole is not installed; run: pip install --no-deps recbole==1.2.1")
    return Path(next(iter(spec.submodule_search_locations))) / "dataset_example" / dataset


def read_rows(path: Path) -> list[dict]:
    """Records of a JSON-lines file that each hold ``item_id``.

    Raises:
        DataError: no such file, a line is no JSON object, or it lacks ``item_id``.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such text file; give one with --texts (JSON lines with item_id and text fields)")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error.msg}); each line must be one object") from None
        if not isinstance(row, dict) or "item_id" not in row:
            raise DataError(f"{path}: line {number} has no item_id; each line must be an object with item_id")
        rows.append(row)
    return rows


def feature_texts(feature: str, args: argparse.Namespace) -> dict[str, str]:
    """Texts of one feature, token -> text, empty ones left out.

    Raises:
        ConfigError: no row has such a text field.
        DataError: the text file or the .item file is missing or malformed.
    """
    from recbole_llm.data import text

    if feature == GENRE:
        from recbole_llm.data.atomic import read_atomic

        frame = read_atomic((args.items or default_item_folder(args.dataset)) / f"{args.dataset}.item")
        if args.genre_field not in frame:
            raise ConfigError(
                f"{args.dataset}.item has no column '{args.genre_field}'; set --genre-field to one of: "
                f"{', '.join(frame)}"
            )
        return text.word_list_texts(frame.to_dict("records"), args.genre_field)
    path = args.texts or dataset_atomic_dir() / args.dataset / FACETS_FILE
    rows = read_rows(path)
    if not any(feature in row for row in rows):
        fields = ", ".join(key for key in rows[0] if key != "item_id") if rows else "none"
        raise ConfigError(f"{path} has no field '{feature}'; choose from: {fields}")
    return text.field_texts(rows, feature)


def main(argv: Sequence[str]) -> int:
    """Encode and write the features; returns the exit code 0.

    Raises:
        RecBoleLLMError: a wrong dataset, field, encoder or file, or a missing package.
    """
    args = _parser().parse_args(list(argv))
    features = [name.strip() for name in args.features.split(",") if name.strip()]
    texts = {feature: feature_texts(feature, args) for feature in features}  # every error before the slow part

    import numpy as np

    from recbole_llm.data import encoders
    from recbole_llm.data.feature_file import save_feature
    from recbole_llm.data.text import texts_sha256

    metadata = encoders.encoder_metadata(args.encoder)
    out = args.out or dataset_atomic_dir() / args.dataset
    for feature, of_token in texts.items():
        print(f"{feature}: {len(of_token)} texts, {len(set(of_token.values()))} distinct", flush=True)
        embedding = encoders.encode_texts(list(of_token.values()), args.encoder, args.batch_size, not args.quiet)
        embedding = embedding.astype(np.float32 if args.float32 else np.float16)
        path = out / f"{args.dataset}.{feature}.safetensors"
        save_feature(path, list(of_token), embedding, "item_id", {**metadata, "text_sha256": texts_sha256(of_token)})
        print(f"wrote {path} [{embedding.shape[0]}, {embedding.shape[1]}] {embedding.dtype}")
    return 0
