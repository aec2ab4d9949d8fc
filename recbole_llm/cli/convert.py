"""``recbole-llm convert``: public datasets as they are handed out -> atomic files and texts."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from recbole_llm.config.locate import PACKAGED
from recbole_llm.convert.formats import FORMATS
from recbole_llm.errors import ConfigError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recbole-llm convert",
        description="Convert files of a public dataset to atomic files <dataset>.inter, .item and .user, and to texts "
        "as JSON lines, which encode makes features of.",
        epilog="formats:\n" + "".join(f"  {name:<10}{format.reads}\n" for name, format in FORMATS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("format", choices=list(FORMATS), metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="folder or zip with the files")
    parser.add_argument("--out", type=Path, default=Path("dataset"), metavar="FOLDER", help="folder of dataset folders")
    parser.add_argument("--dataset", metavar="NAME", help="name of the dataset; default: that of the format")
    parser.add_argument("--overwrite", action="store_true", help="replace files of a former conversion")
    return parser


def main(argv: Sequence[str]) -> int:
    """Convert; returns the exit code 0.

    Raises:
        RecBoleLLMError: a wrong name, or a missing or malformed file.
    """
    args = _parser().parse_args(list(argv))
    name = (FORMATS[args.format].dataset or args.format) if args.dataset is None else args.dataset
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"--dataset '{name}' is no name for a folder; choose one without / and without a leading dot")
    if name == PACKAGED:
        raise ConfigError(f"RecBole reads {PACKAGED} from its own package alone; choose another name with --dataset")
    module, _, function = FORMATS[args.format].convert.partition(":")
    converted = getattr(import_module(module), function)(args.source)
    converted.write(args.out / name, args.overwrite)
    print(converted.summary(args.out / name))
    return 0
