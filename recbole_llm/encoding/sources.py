"""Where texts and images come from: columns of atomic files, JSON lines, image folders. Token -> content."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter

from recbole_llm.data.text import field_texts, joined_texts, template_texts
from recbole_llm.errors import ConfigError, DataError

# whom or what a line is about: the first of these that it has; a review's line may name its user and item too
ID_FIELDS = ("review_id", "item_id", "user_id")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def read_lines(path: Path) -> tuple[str, list[dict]]:
    """Records of a JSON-lines file that each hold ``item_id``, ``user_id`` or, of interactions, ``review_id``.

    Returns:
        the id field, the records.
    Raises:
        DataError: no such file, a line is no JSON object or lacks the id, or a token has two lines.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such text file; give one with --texts (JSON lines with item_id and text fields)")
    rows: list[dict] = []
    id_field, seen = "", set()
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error.msg}); each line must be one object") from None
        id_field = id_field or next((name for name in ID_FIELDS if isinstance(row, dict) and name in row), "item_id")
        if not isinstance(row, dict) or id_field not in row:
            raise DataError(f"{path}: line {number} has no {id_field}; each line must be an object with {id_field}")
        if id_field != "review_id" and "item_id" in row and "user_id" in row:
            raise DataError(f"{path}: line {number} has item_id and user_id; a text is about one, drop the other")
        token = str(row[id_field])
        if token in seen:
            raise DataError(f"{path}: line {number} is the second of {id_field} '{token}'; keep one line a token")
        seen.add(token)
        rows.append(row)
    if not rows:
        raise DataError(f"{path} holds no line; write JSON lines with item_id and text fields")
    return id_field, rows


def line_texts(path: Path, features: Sequence[str]) -> tuple[str, dict[str, dict[str, str]]]:
    """Texts of some fields of a JSON-lines file, empty ones left out.

    Args:
        features: names of fields; none: all that hold a text.
    Returns:
        the id field, {feature: {token: text}}.
    Raises:
        ConfigError: when no line has such a field.
        DataError: see :func:`read_lines`.
    """
    id_field, rows = read_lines(path)
    fields = list(dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, str)))
    fields = [key for key in fields if key not in ID_FIELDS]
    for feature in features:
        if feature not in fields:
            raise ConfigError(f"{path} has no text field '{feature}'; choose from: {', '.join(fields) or 'none'}")
    return id_field, {feature: field_texts(rows, feature, id_field) for feature in features or fields}


def column_texts(
    path: Path, columns: Sequence[str] = (), template: str = "", id_field: str = "item_id"
) -> tuple[str, dict[str, str]]:
    """One text a token from an atomic file (``<dataset>.item`` or ``.user``).

    Args:
        columns: joined in this order; or template: a format string over columns, see ``data.text.template_texts``.
        id_field: column of the tokens; the first one, where there is none of this name.
    Returns:
        the id field, {token: text}.
    Raises:
        ConfigError: when the file has no such column, or the template is malformed.
        DataError: when the file is missing or malformed.
    """
    from recbole_llm.data.atomic import read_atomic

    if not path.is_file():
        raise DataError(f"{path} does not exist; put the atomic file there, or give texts with --texts")
    frame = read_atomic(path)
    id_field = id_field if id_field in frame else frame.columns[0]
    if frame[id_field].duplicated().any():
        twice = frame[id_field][frame[id_field].duplicated()].iloc[0]
        raise DataError(f"{path}: {id_field} '{twice}' has two lines; keep one a token")
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None] or list(columns)
    except ValueError as error:
        raise ConfigError(f"--template: {error}; write it as in '{{title}} ({{year}}), {{genres:, }}'") from None
    for column in names:
        if column not in frame or column == id_field:
            others = ", ".join(name for name in frame if name != id_field)
            raise ConfigError(f"{path} has no column '{column}' to make a text of; choose from: {others}")
    rows = frame.to_dict("records")
    return id_field, template_texts(rows, template, id_field) if template else joined_texts(rows, columns, id_field)


def image_files(folder: Path) -> dict[str, Path]:
    """Images of a folder by the token that their name is: ``<token>.jpg``, ``.png`` or ``.webp``.

    Raises:
        DataError: when the folder is missing or has none, or a token has two.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; name one with images called <token>.jpg or <token>.png")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            if path.stem in found:
                raise DataError(f"{folder} has two images of '{path.stem}'; keep one")
            found[path.stem] = path
    if not found:
        raise DataError(f"{folder} has no images; call them <token>.jpg, <token>.png or <token>.webp")
    return found


def split_broken(images: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """The images that can be read to their last pixel, and why the others cannot.

    Returns:
        {token: file}, {token: reason}.
    """
    from PIL import UnidentifiedImageError

    good, broken = {}, {}
    for token, path in images.items():
        try:
            upright(path)
            good[token] = path
        except UnidentifiedImageError:
            broken[token] = "no image that is known"
        except Exception as error:  # decoders raise whatever a broken file makes them stumble over
            broken[token] = " ".join(str(error).split())[:80] or type(error).__name__
    return good, broken


def upright(path: Path):
    """An image as a PIL one in RGB: turned as its camera says, 16 bits scaled to 8, transparent parts white."""
    import numpy as np
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of notes that a file's program wrote badly
        with Image.open(path) as opened:
            opened.load()
            image = opened
            try:
                image = ImageOps.exif_transpose(opened)
            except Exception:  # a damaged note of how it was held costs the note, not the image
                image = opened.copy()
            if image.mode.startswith(("I", "F")):
                values = np.asarray(image, dtype=np.float64)
                top = 65535.0 if image.mode.startswith("I") and values.max() > 255 else max(values.max(), 1.0)
                image = Image.fromarray((np.clip(values / top, 0, 1) * 255).astype(np.uint8))
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
