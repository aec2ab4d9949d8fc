"""Rows of an item or user table -> one text a token. Pure functions: no files, no models, no randomness."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

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


def word_list_texts(rows: Iterable[Mapping[str, object]], field: str, id_field: str = "item_id") -> dict[str, str]:
    """One text a token from a ``token_seq`` field such as genres: ``["Comedy", "Romance"] -> "Comedy, Romance"``.

    Args:
        rows: records whose ``field`` is a sequence of words.
        field: name of the ``token_seq`` field.
        id_field: name of the field that holds the token.
    Returns:
        token -> text in row order; the word ``unknown`` and tokens without any word are left out.
    """
    texts = {}
    for row in rows:
        words: Sequence[str] = row.get(field) or ()  # type: ignore[assignment]
        text = ", ".join(word for word in words if word and word != NO_VALUE)
        if text:
            texts[str(row[id_field])] = text
    return texts


def template_texts(rows: Iterable[Mapping[str, object]], template: str, id_field: str = "item_id") -> dict[str, str]:
    """One text a token by a format string over several fields, for example ``"{movie_title} ({release_year})"``.

    Args:
        rows: records; sequences are joined by ``", "`` before they are put in.
        template: ``str.format`` template whose names are fields of the rows.
        id_field: name of the field that holds the token.
    Returns:
        token -> text in row order, white space collapsed, empty texts left out.
    Raises:
        KeyError: a name in the template is no field of a row.
    """
    texts = {}
    for row in rows:
        text = " ".join(template.format(**{key: _plain(value) for key, value in row.items()}).split())
        if text:
            texts[str(row[id_field])] = text
    return texts


def _plain(value: object) -> str:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return ", ".join(map(str, value))


def texts_sha256(texts: Mapping[str, str]) -> str:
    """sha256 over the lines ``token<TAB>text``, in order; kept in a feature file to tell which texts it came from."""
    digest = hashlib.sha256()
    for token, text in texts.items():
        digest.update(f"{token}\t{text}\n".encode())
    return digest.hexdigest()
