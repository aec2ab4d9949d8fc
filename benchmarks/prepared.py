"""Datasets that a benchmark converts and encodes itself, below dataset/; what is there already is taken as it is."""

import subprocess
import sys
from pathlib import Path

from measured import REPOSITORY, SHARED


def anime() -> None:
    """The ratings of anime.zip, and a text of name, genres and type of each anime."""
    _convert("anime", SHARED / "data" / "anime" / "anime.zip")
    _encode("anime", ["text"], "--feature", "text", "--template", "{name}. {genre:, }. {type}")


def ml_1m() -> None:
    """MovieLens 1M with plots and descriptions."""
    _convert("ml-1m", SHARED / "data" / "ml-1m")
    _encode("ml-1m", ["plot", "description"], "--texts", str(_folder("ml-1m") / "ml-1m.item_text.jsonl"))


def news_dkn() -> None:
    """DKN's titles, and a row of each."""
    _convert("news-dkn", SHARED / "data" / "news-dkn", "dkn")
    _encode("news-dkn", ["text"], "--feature", "text", "--template", "{title}")


def _folder(dataset: str) -> Path:
    return REPOSITORY / "dataset" / dataset


def _convert(dataset: str, source: Path, form: str | None = None) -> None:
    if (_folder(dataset) / f"{dataset}.inter").is_file():
        return
    if not source.exists():
        raise SystemExit(f"{source} is not there; set RECBOLE_LLM_SHARED to the folder that holds data/")
    _command("convert", form or dataset, "--source", str(source))


def _encode(dataset: str, features: list[str], *how: str) -> None:
    if not all((_folder(dataset) / f"{dataset}.{name}.safetensors").is_file() for name in features):
        _command("encode", "--dataset", dataset, *how)


def _command(*words: str) -> None:
    """``recbole-llm`` with these words, its progress shown; ends where it does not succeed."""
    program = "import sys; from recbole_llm.cli import main; sys.exit(main(sys.argv[1:]))"
    code = subprocess.run([sys.executable, "-c", program, *words], cwd=REPOSITORY, stdout=sys.stderr, check=False)
    if code.returncode:
        raise SystemExit(f"recbole-llm {' '.join(words)} ended with code {code.returncode}")
