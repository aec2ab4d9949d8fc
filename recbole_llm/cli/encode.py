"""``recbole-llm encode``: texts or images of a dataset -> feature files ``<dataset>.<feature>.safetensors``."""

import argparse
import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llm.cli.places import feature_folder
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.paths import dataset_atomic_dir

TEXTS_FILE = "item_facets.jsonl"
STORE_FILE = ".encoded.sqlite"

_EPILOG = """\
examples:
  recbole-llm encode --dataset shop --feature descr --texts descriptions.jsonl
  recbole-llm encode --dataset ml-100k --feature genre --template '{class:, }'
  recbole-llm encode --dataset shop --feature title --from title,brand --encoder BAAI/bge-m3 --download
  recbole-llm encode --dataset shop --feature poster --images posters/ --encoder openai/clip-vit-base-patch32 --download
  OPENAI_API_KEY=... recbole-llm encode --dataset shop --feature descr --texts descriptions.jsonl \\
      --encoder text-embedding-3-small --api-base https://api.openai.com/v1 --dry-run --price 0.02

Rows are kept by content in a store: a second run encodes what has changed, a run broken off goes on with the batch it
was at. A token with an empty text, or with an image that cannot be read, gets no row. all-MiniLM-L6-v2 (the default)
needs: pip install 'recbole-llm[text]'; CLIP: 'recbole-llm[vision]'; endpoints: 'recbole-llm[llm]'."""


@dataclass(frozen=True)
class Feature:
    """What one feature file is made of.

    Attributes:
        contents: token -> text or image file. broken: token -> why it has no row. origin: what a language model made
            the texts from, see data/derived.py.
    """

    name: str
    id_field: str
    contents: Mapping[str, str | Path]
    broken: Mapping[str, str]
    origin: Mapping[str, Any] = field(default_factory=dict)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm encode",
        description="Encode texts or images of a dataset and write a feature file for each.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", required=True, help="name of the dataset, for example ml-100k")
    parser.add_argument("--feature", default="", metavar="NAMES", help="name of the feature; of several fields: a,b,c")
    source = parser.add_argument_group("where the contents come from")
    one = source.add_mutually_exclusive_group()
    one.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help=f"JSON lines with item_id, user_id or review_id, a field a feature (default: the dataset's {TEXTS_FILE})",
    )
    one.add_argument(
        "--from", dest="columns", metavar="COLUMNS", help="columns of <dataset>.item, joined: title,genres"
    )
    one.add_argument("--template", metavar="TEXT", help="a text with columns in it: '{title}, a {genres:, } film'")
    one.add_argument("--images", type=Path, metavar="FOLDER", help="images called <token>.jpg, .png or .webp")
    source.add_argument(
        "--side", choices=("item", "user"), default="item", help="whose columns or images (default item)"
    )
    source.add_argument("--data-path", type=Path, default=Path("dataset"), help="folder of dataset folders")
    encoder = parser.add_argument_group("encoder")
    encoder.add_argument(
        "--encoder",
        default="all-MiniLM-L6-v2",
        metavar="NAME",
        help="model of sentence-transformers or CLIP: a folder or a name; default: all-MiniLM-L6-v2, offline",
    )
    encoder.add_argument("--download", action="store_true", help="fetch a named model that is not on this machine")
    encoder.add_argument("--api-base", default="", metavar="URL", help="endpoint of OpenAI's protocol, up to /v1")
    encoder.add_argument("--dimensions", type=int, metavar="N", help="shorter rows, where the endpoint gives them")
    encoder.add_argument("--requests", type=int, default=4, metavar="N", help="requests at a time (default 4)")
    encoder.add_argument("--allow-upload", action="store_true", help="texts about users may leave this machine")
    encoder.add_argument("--batch-size", type=int, default=64, metavar="N", help="contents at a time (default 64)")
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, metavar="FOLDER", help="default: the dataset's folder")
    out.add_argument("--store", type=Path, metavar="FILE", help=f"encoded rows; default: {STORE_FILE} in that folder")
    out.add_argument("--float32", action="store_true", help="write float32 instead of float16")
    out.add_argument("--dry-run", action="store_true", help="only say how much there is to do, and what it takes")
    out.add_argument("--price", type=float, metavar="USD", help="of a million tokens, for --dry-run")
    out.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str]) -> int:
    """Encode and write the features; returns the exit code 0.

    Raises:
        RecBoleLLMError: a wrong dataset, field, encoder or file, or a missing package.
    """
    args = _parser().parse_args(list(argv))
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, not {args.batch_size}")
    features = _features(args)  # every error before the slow part

    import numpy as np

    from recbole_llm.encoding.choose import Options, make_encoder
    from recbole_llm.encoding.store import RowStore

    options = Options(args.encoder, args.api_base, args.dimensions, args.requests, args.download, args.allow_upload)
    kind = "image" if args.images else "text"
    # whatever is not plainly about items may be about people
    about_users = args.side == "user" or any(feature.id_field != "item_id" for feature in features)
    encoder = make_encoder(options, kind, about_users)
    out = args.out or feature_folder(args.dataset, args.data_path)
    dtype = np.dtype(np.float32 if args.float32 else np.float16)
    covered = {feature.name: _coverage(feature, args) for feature in features}
    place = args.store or out / STORE_FILE
    with contextlib.ExitStack() as stack:
        if args.dry_run and not place.is_file():  # nothing is left behind
            place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / STORE_FILE
        store = stack.enter_context(RowStore(place))
        for feature in features:
            if args.dry_run:
                _estimate(feature, encoder, store, dtype, args)
            else:
                _encode(feature, encoder, store, dtype, out, args, covered[feature.name])
    return 0


def _features(args: argparse.Namespace) -> list[Feature]:
    from recbole_llm.data.derived import read_origin
    from recbole_llm.encoding import sources

    names = [name.strip() for name in args.feature.split(",") if name.strip()]
    if args.columns is None and args.template is None and args.images is None:
        path = args.texts or dataset_atomic_dir() / args.dataset / TEXTS_FILE
        if args.texts is None and not path.is_file():
            raise ConfigError(
                f"where do the texts of {args.dataset} come from? Say --texts, --from, --template or --images"
            )
        id_field, texts = sources.line_texts(path, names)
        origin = read_origin(path)
        found = [Feature(name, id_field, of_token, {}, origin) for name, of_token in texts.items()]
    else:
        if len(names) != 1:
            raise ConfigError(
                f"--from, --template and --images make one feature; name it with --feature, not '{args.feature}'"
            )
        if args.images:
            good, broken = sources.split_broken(sources.image_files(args.images))
            found = [Feature(names[0], f"{args.side}_id", good, broken)]
        else:
            columns = [column.strip() for column in (args.columns or "").split(",") if column.strip()]
            path = _atomic_folder(args) / f"{args.dataset}.{args.side}"
            id_field, texts = sources.column_texts(path, columns, args.template or "", f"{args.side}_id")
            found = [Feature(names[0], id_field, texts, {})]
    if not names:  # of a file's fields, those that nobody filled
        found = [feature for feature in found if feature.contents] or found
    for feature in found:
        if not feature.contents:
            raise DataError(
                f"feature {feature.name}: there is nothing to encode, every text or image is empty or broken"
            )
    return found


def _atomic_folder(args: argparse.Namespace) -> Path:
    from recbole_llm.config.locate import locate_dataset

    return locate_dataset(args.dataset, args.data_path)


def _estimate(feature: Feature, encoder, store, dtype, args: argparse.Namespace) -> None:
    from recbole_llm.encoding.rows import make_plan, seconds_left

    plan = make_plan(feature.contents, encoder, store, dtype, args.batch_size)
    todo = plan.todo
    line = f"{feature.name}: {len(plan.keys)} rows, {plan.n_contents} distinct, {len(todo)} to encode"
    if todo and not args.images:
        tokens = encoder.count_tokens(todo)
        line += f", {tokens:,} tokens"
        if args.price is not None:
            line += f", about {tokens / 1e6 * args.price:.4f} USD"
        elif args.api_base:
            line += " (--price gives the cost)"
    if todo and not args.api_base:  # a request to time an endpoint could cost money
        line += f", about {seconds_left(plan, encoder, store, dtype):.0f} s"
    print(line)


def _encode(feature: Feature, encoder, store, dtype, out: Path, args: argparse.Namespace, covered: str) -> None:
    from tqdm import tqdm

    from recbole_llm.data.feature_file import save_feature
    from recbole_llm.data.text import texts_sha256
    from recbole_llm.encoding.rows import content_hash, encode_rows, make_plan

    plan = make_plan(feature.contents, encoder, store, dtype, args.batch_size)
    total = sum(map(len, plan.batches))
    with tqdm(total=total, desc=feature.name, unit="row", disable=args.quiet or not total) as bar:
        made = encode_rows(plan, encoder, store, dtype, bar.update)
    hashed = {token: content_hash(c) if args.images else str(c) for token, c in feature.contents.items()}
    metadata = {key: encoder.identity[key] for key in ("encoder", "revision", "pooling")}
    metadata["image_sha256" if args.images else "text_sha256"] = texts_sha256(hashed)
    metadata |= {
        key: str(feature.origin[key]) for key in ("split", "protocol", "model", "prompt") if key in feature.origin
    }
    path = out / f"{args.dataset}.{feature.name}.safetensors"
    save_feature(path, made.tokens, made.embedding, feature.id_field, metadata)
    print(f"{feature.name}: {made.new} encoded, {made.reused} from the store; {covered}")
    if feature.broken:
        first = "; ".join(f"{token}: {reason}" for token, reason in list(feature.broken.items())[:3])
        more = f"; and {len(feature.broken) - 3} more" if len(feature.broken) > 3 else ""
        print(f"{feature.name}: {len(feature.broken)} images cannot be read and have no row ({first}{more})")
    if "split" in metadata:
        print(
            f"{feature.name}: made from the training rows of {metadata['protocol']}, and loads under this split alone"
        )
    elif feature.id_field == "user_id":
        print(f"{feature.name}: nothing says which rows its texts know; check them with 'recbole-llm audit'")
    print(f"wrote {path} [{made.embedding.shape[0]}, {made.embedding.shape[1]}] {made.embedding.dtype}")


def _coverage(feature: Feature, args: argparse.Namespace) -> str:
    """How much of the dataset the rows will cover, where its interactions are at hand."""
    from recbole_llm.encoding.coverage import coverage

    tokens = list(feature.contents)
    try:
        file = _atomic_folder(args) / f"{args.dataset}.inter"
    except DataError:
        return f"{len(tokens)} rows (no interactions at hand to say how much they cover)"
    return coverage(file, feature.id_field, tokens)
