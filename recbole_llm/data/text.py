"""Rows of an item or user table -> one text a token. Pure functions: no files, no models, no randomness."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter

# RecBole's packaged MovieLens files mark a film without a genre by this word; it says nothing about the film
NO_VALUE = "unknown"


def field_texts(rows: Iterable[Mapping[str, object]], field: str, id_field: str = "item_id") -> dict[str, str]:
    """One text a token from one text field; white space is collapsed.

    Args:
        rows: records, for example lines of ``item_facets.jsonl``.
        field: name of the text field.
        id_field: name of the field that holds the token.
    Returns:
        token -> text in row order. A token whose text is empty or absent is left out, so that it counts as missing
        in the feature file and follows the policy ``missing`` instead of sharing the vector of the empty string.
    """
    texts = {}
    for row in rows:
        text = " ".join(str(row.get(field) or "").split())
        if text:
            texts[str(row[id_field])] = text
    return texts


def joined_texts(
    rows: Iterable[Mapping[str, object]], fields: Sequence[str], id_field: str = "item_id"
) -> dict[str, str]:
    """One text a token from some fields: ``"Toy Story. Animation Comedy"``.

    Args:
        rows: records, as of an atomic file; the words of a ``token_seq`` are joined by spaces.
        fields: names of the fields, in the order of the text.
        id_field: name of the field that holds the token.
    Returns:
        token -> text in row order, white space collapsed; a field that says ``unknown`` says nothing and is left out,
        and so are tokens without any word.
    """
    texts = {}
    for row in rows:
        parts = [" ".join(format(Words(row[field])).split()) for field in fields]
        if text := ". ".join(part for part in parts if part):
            texts[str(row[id_field])] = text
    return texts


def template_texts(rows: Iterable[Mapping[str, object]], template: str, id_field: str = "item_id") -> dict[str, str]:
    """One text a token by a format string over fields: ``"{movie_title} ({release_year}), a {class:, }"``.

    What stands after a field's colon joins the words of a ``token_seq``; a space where nothing stands there.

    Args:
        rows, id_field: see :func:`joined_texts`.
        template: ``str.format`` template whose names are fields of the rows.
    Returns:
        token -> text in row order, white space collapsed; tokens whose fields are all empty are left out.
    Raises:
        KeyError: a name in the template is no field of a row.
        ValueError: the template is malformed.
    """
    names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    texts = {}
    for row in rows:
        values = {name: Words(row[name]) for name in names}
        if any(format(value) for value in values.values()):
            texts[str(row[id_field])] = " ".join(Formatter().vformat(template, (), values).split())
    return texts


class Words:
    """A field's words; a format specification joins them."""

    def __init__(self, value: object) -> None:
        words = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        shown = [_number(word) if isinstance(word, float) else str(word) for word in words if word is not None]
        self.words = [word for word in shown if word]
        if self.words == [NO_VALUE]:
            self.words = []

    def __format__(self, separator: str) -> str:
        return (separator or " ").join(self.words)

    def __str__(self) -> str:
        return format(self)


def _number(value: float) -> str:
    """``12.0 -> 12``, ``9.5 -> 9.5``, nothing for NaN."""
    if value != value:
        return ""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def texts_sha256(texts: Mapping[str, str]) -> str:
    """sha256 over the lines ``token<TAB>text``, in order; kept in a feature file to tell which texts it came from."""
    digest = hashlib.sha256()
    for token, text in texts.items():
        digest.update(f"{token}\t{text}\n".encode())
    return digest.hexdigest()
