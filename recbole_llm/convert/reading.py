"""What the formats share: files of a folder or a zip, their rows, and text that atomic files can hold."""

import gzip
import html
import math
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from recbole_llm.errors import DataError

# a word of a token_seq ends at a space, for RecBole too, and at no other white space: a no-break space keeps "Slice of
# Life" one word, and encode, which collapses white space, makes it a space again
_INSIDE_WORD = "\u00a0"


class Files:
    """Files by their name: of a folder, of the folders right below it, or of a zip.

    Args:
        source: the folder or the zip; a folder that holds the zip ``archive`` stands for that zip.
    Raises:
        DataError: no such folder or file, or it is no zip.
    """

    def __init__(self, source: Path, archive: str = "") -> None:
        self.source = source / archive if archive and (source / archive).is_file() else source
        self._members: dict[str, list[str]] = {}
        if self.source.is_dir():
            places = [*self.source.iterdir(), *self.source.glob("*/*")]
            found = [(path.name, str(path)) for path in places if path.is_file()]
        elif self.source.is_file():
            try:
                with zipfile.ZipFile(self.source) as opened:
                    found = [(Path(name).name, name) for name in opened.namelist()]
            except zipfile.BadZipFile:
                raise DataError(f"{self.source} is neither a folder nor a zip; name one with --source") from None
        else:
            raise DataError(f"{self.source} does not exist; name a folder or a zip with --source")
        for name, place in sorted(found):
            self._members.setdefault(name, []).append(place)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self._members

    def text(self, name: str, otherwise: str = "") -> str:
        """Content of a file, unpacked where its name ends in .gz; line breaks become plain ones.

        Args:
            otherwise: encoding of a file that is not UTF-8.
        Raises:
            DataError: no such file, two of them, or one that is damaged or of another encoding.
        """
        places = self._members.get(name, [])
        if len(places) != 1:
            several = f"has {len(places)} files {name} ({', '.join(places)}); keep one"
            raise DataError(f"{self.source} {several if places else f'has no file {name}; put it there'}")
        try:
            if self.source.is_dir():
                raw = Path(places[0]).read_bytes()
            else:
                with zipfile.ZipFile(self.source) as opened:
                    raw = opened.read(places[0])
            raw = gzip.decompress(raw) if name.endswith(".gz") else raw
        except (zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"{self.source}: {name} is damaged ({error}); fetch it again") from None
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if not otherwise:
                raise DataError(f"{self.source}: {name}: byte {error.start} is not UTF-8; convert it") from None
            text = raw.decode(otherwise)
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def rows(self, name: str, separator: str, n_fields: int, otherwise: str = "") -> list[list[str]]:
        """Fields of a file's lines, which have no quoting; empty lines are passed over.

        Raises:
            DataError: a line with another number of fields, or what :meth:`text` raises.
        """
        rows = []
        for number, line in enumerate(self.text(name, otherwise).split("\n"), start=1):
            if line:
                rows.append(line.split(separator))
                if len(rows[-1]) != n_fields:
                    raise DataError(
                        f"{self.source}: {name}, line {number} has {len(rows[-1])} fields instead of {n_fields}; "
                        "the file is damaged or of another format"
                    )
        if not rows:
            raise DataError(f"{self.source}: {name} is empty; fetch it again")
        return rows


def numbers(values: Iterable[str], where: str) -> list[float]:
    """Finite floats of a column.

    Raises:
        DataError: naming the first one that is none.
    """
    found = []
    for value in values:
        try:
            found.append(float(value))
        except ValueError:
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            raise DataError(f"{where}: '{value}' is no number; correct the file")
    return found


def plain(text: str) -> str:
    """Text that a field of an atomic file can hold: HTML entities resolved, white space collapsed, no NUL.

    RecBole's reader takes a field that begins with a double quote for a quoted one, which may swallow the lines after
    it; the quotes of such a text become single ones.
    """
    text = " ".join(html.unescape(text).replace("\0", " ").split())
    return text.replace('"', "'") if text.startswith('"') else text


def words(parts: Iterable[str]) -> list[str]:
    """Parts such as genres or persons as words of a ``token_seq``, each once, a space in one as a no-break space."""
    found = (re.sub(" ", _INSIDE_WORD, plain(part)) for part in parts)
    return list(dict.fromkeys(word for word in found if word))
