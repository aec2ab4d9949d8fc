"""RecBole's atomic files <-> pandas DataFrame.

An atomic file is a table whose header types each column, ``user_id:token<TAB>rating:float<TAB>class:token_seq``; fields
are separated by a tab, the elements of a sequence by a space (https://recbole.io/docs/user_guide/data/atomic_files.html).
Fields are read literally: no quoting, no escapes, and words such as ``NA`` or ``null`` stay tokens.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import DataError

FIELD_SEPARATOR = "\t"
SEQ_SEPARATOR = " "
FIELD_TYPES = ("token", "float", "token_seq", "float_seq")
# what the reader takes for the end of a line or of a string; a token that holds one could not be read back
_LINE_BREAKS = ("\n", "\r", "\0")


def read_types(path: Path | str) -> dict[str, str]:
    """Field name -> field type, from the header of an atomic file.

    Raises:
        DataError: no such file, or a column is not ``name:type`` with one of RecBole's four types.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such atomic file; check the dataset's name and folder")
    try:
        with path.open("rb") as file:
            header = file.readline().decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the header is not UTF-8 ({error.reason}); convert the file to UTF-8") from None
    types: dict[str, str] = {}
    for column in header.split(FIELD_SEPARATOR):
        name, _, kind = column.rpartition(":")
        if not name or kind not in FIELD_TYPES:
            raise DataError(
                f"{path}: column '{column}' of the header is not 'name:type' with a type of {', '.join(FIELD_TYPES)}; "
                "correct the first line"
            )
        if name in types:
            raise DataError(f"{path}: the header names column '{name}' twice; rename one of them")
        types[name] = kind
    return types


def read_atomic(path: Path | str) -> pd.DataFrame:
    """Read an atomic file whole.

    Args:
        path: ``<dataset>.inter``, ``.item``, ``.user``, ``.kg``, ``.link`` or any suffix file.
    Returns:
        One column a field: token -> str, float -> float64 (empty -> NaN), token_seq -> list of str, float_seq -> 1-d
        float64 array. ``frame.attrs["types"]`` holds field name -> field type.
    Raises:
        DataError: no such file, a malformed header, a row with too few or too many fields, or a wrong number.
    """
    path = Path(path)
    types = read_types(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8") from None
    lines = text.replace("\r\n", "\n").split("\n")[1:]
    if lines and lines[-1] == "":
        lines.pop()  # the line break that ends the last row
    rows = [line.split(FIELD_SEPARATOR) for line in lines]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(types):
            raise DataError(
                f"{path}: line {number} has {len(row)} fields, the header {len(types)}; a field may hold no tab and no "
                "line break"
            )
    columns = {}
    for index, (name, kind) in enumerate(types.items()):
        parsed = []
        for number, row in enumerate(rows, start=2):
            try:
                parsed.append(_PARSERS[kind](row[index]))
            except ValueError:
                raise DataError(
                    f"{path}: line {number}, column '{name}': '{row[index]}' is not of type {kind}; correct the line"
                ) from None
        columns[name] = _column(parsed, kind)
    frame = pd.DataFrame(columns)
    frame.attrs["types"] = types
    return frame


def write_atomic(path: Path | str, frame: pd.DataFrame, types: Mapping[str, str] | None = None) -> None:
    """Write an atomic file, atomically; ``read_atomic`` gives the same frame back.

    Args:
        path: file to write.
        frame: the columns in file order; token: str, float: number or NaN, token_seq: words, float_seq: numbers.
        types: field name -> field type of every column; ``frame.attrs["types"]`` where left out.
    Raises:
        DataError: a column without a type, or a token or word that holds a separator or line break, or an empty word.
    """
    path = Path(path)
    types = frame.attrs.get("types", {}) if types is None else types
    columns = []
    for name in frame.columns:
        kind = types.get(name)
        if kind not in FIELD_TYPES:
            raise DataError(f"{path}: column '{name}' has no field type; pass one of {', '.join(FIELD_TYPES)} in types")
        _check_text(path, name, name, (FIELD_SEPARATOR,))
        columns.append([_FORMATTERS[kind](path, name, value) for value in frame[name].tolist()])
    with atomic_writer(path) as file:
        file.write((FIELD_SEPARATOR.join(f"{name}:{types[name]}" for name in frame.columns) + "\n").encode())
        file.writelines((FIELD_SEPARATOR.join(row) + "\n").encode() for row in zip(*columns, strict=True))


def _column(values: list, kind: str) -> pd.Series:
    if kind == "float":
        return pd.Series(values, dtype=np.float64)
    column = np.empty(len(values), dtype=object)  # filled by index: NumPy would make a matrix of equally long sequences
    for row, value in enumerate(values):
        column[row] = value
    return pd.Series(column, dtype=object)


def _words(text: str) -> list[str]:
    return [word for word in text.split(SEQ_SEPARATOR) if word]  # like RecBole: runs of spaces are one separator


_PARSERS: dict[str, Callable[[str], object]] = {
    "token": str,
    "float": lambda text: float(text) if text else np.nan,
    "token_seq": _words,
    "float_seq": lambda text: np.array([float(word) for word in _words(text)], dtype=np.float64),
}


def _check_text(path: Path, name: str, text: str, separators: tuple[str, ...]) -> str:
    bad = next((c for c in (*separators, *_LINE_BREAKS) if c in text), None)
    if bad is not None:
        raise DataError(f"{path}: column '{name}': {text!r} holds {bad!r}, which separates fields; replace it")
    return text


def _format_token(path: Path, name: str, value: object) -> str:
    return _check_text(path, name, str(value), (FIELD_SEPARATOR,))


def _format_float(_path: Path, _name: str, value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))


def _format_words(path: Path, name: str, value: object) -> str:
    words = [_check_text(path, name, str(word), (FIELD_SEPARATOR, SEQ_SEPARATOR)) for word in value]
    if "" in words:
        raise DataError(f"{path}: column '{name}': {words} holds an empty word, which cannot be read back; drop it")
    return SEQ_SEPARATOR.join(words)


def _format_numbers(_path: Path, _name: str, value: object) -> str:
    return SEQ_SEPARATOR.join(repr(float(number)) for number in value)


_FORMATTERS: dict[str, Callable[[Path, str, object], str]] = {
    "token": _format_token,
    "float": _format_float,
    "token_seq": _format_words,
    "float_seq": _format_numbers,
}
