"""Whether texts about users name items that nobody could know of: those held out for validation and test."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_llm.errors import ConfigError, DataError

TITLES = ("title", "movie_title", "name", "item_name", "product_name")
SUSPICIOUS = 1e-3  # one-sided p of naming so many by chance
_DRAWS = 20  # chance: the held-out items of so many other users, for every user
_ARTICLES = "the|a|an|la|le|les|il|lo|el|los|las|der|die|das"


@dataclass(frozen=True)
class Named:
    """Users whose text names an item that was held out from them.

    Attributes:
        part: "valid" or "test". users: with a text and such an item. named: those of them whose text names one.
        chance: expected share when each user had the items of other users. p: one-sided binomial, of ``named`` or more
            at that share. examples: (user, title) of some that are named.
    """

    part: str
    users: int
    named: int
    chance: float
    p: float
    examples: tuple[tuple[str, str], ...]

    @property
    def share(self) -> float:
        """Of the users, 0 without any."""
        return self.named / max(self.users, 1)

    @property
    def leaks(self) -> bool:
        """Whether chance does not explain it."""
        return self.p < SUSPICIOUS

    def text(self) -> str:
        """One sentence."""
        return (
            f"{self.part}: {self.named} of {self.users} users ({self.share:.1%}) have a held-out item named in their "
            f"text; {self.chance:.1%} would by chance (p {self.p:.2g})"
        )


def normal(text: str) -> str:
    """Words in lower case, accents and punctuation dropped: ``"Amélie (2001)!"`` -> ``amelie 2001``; any script."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"[^\W_]+", "".join(c for c in plain if not unicodedata.combining(c))))


def normal_titles(title: str) -> tuple[str, ...]:
    """What a sentence may call an item: its title and those in brackets, years dropped, ``Net, The`` turned round."""
    inside = [name for name in re.findall(r"\(([^()]*)\)", title) if not re.fullmatch(r"\s*\d{4}\s*", name)]
    outside = re.sub(r"\([^()]*\)", " ", title)
    found = []
    for name in (outside, *inside):
        turned = re.sub(rf"^(.*),\s+({_ARTICLES})$", r"\2 \1", name.strip(), flags=re.IGNORECASE)
        found.append(normal(turned))
    return tuple(dict.fromkeys(name for name in found if name))


def read_user_texts(path: Path, field: str = "") -> dict[str, str]:
    """Texts by user: a JSON object of them, or JSON lines with ``user_id`` and text fields.

    Args:
        field: which text of a line; "": all of them, joined.
    Raises:
        DataError: no such file, or neither form.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file of texts about users; name one with --texts")
    raw = path.read_text(encoding="utf-8")
    try:
        whole = json.loads(raw)
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, dict) and "user_id" not in whole:
        return {str(user): _text(value) for user, value in whole.items()}
    texts: dict[str, str] = {}
    for number, line in enumerate(filter(str.strip, raw.split("\n")), start=1):
        try:
            row = json.loads(line)
            user = str(row.pop("user_id"))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise DataError(
                f"{path}: line {number} is no JSON object with user_id; the file must be JSON lines, or one object of "
                "user: text"
            ) from None
        if field and field not in row:
            raise DataError(f"{path}: line {number} has no field '{field}' (fields: {', '.join(row)})")
        text = _text(row[field]) if field else " ".join(map(_text, row.values()))
        texts[user] = f"{texts[user]} {text}" if user in texts else text  # several lines of a user are one text
    return texts


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def item_titles(path: Path, column: str = "") -> dict[str, str]:
    """Title of every item of ``<dataset>.item``.

    Raises:
        DataError: no such file. ConfigError: no such column, or none that looks like a title.
    """
    from recbole_llm.data.atomic import read_atomic

    frame = read_atomic(path)
    column = column or next((name for name in TITLES if name in frame), "")
    if column not in frame:
        raise ConfigError(f"{path} has no column '{column or 'title'}'; name it with --title: {', '.join(frame)}")
    values = [value if isinstance(value, str) else " ".join(map(str, value)) for value in frame[column]]
    id_field = "item_id" if "item_id" in frame else frame.columns[0]
    return dict(zip(frame[id_field].astype(str), values, strict=True))


def named_items(
    part: str,
    texts: Mapping[str, str],
    held_out: Sequence[tuple[str, str]],
    titles: Mapping[str, str],
    seed: int = 2020,
) -> Named:
    """How many users have a held-out item named in their text.

    Args:
        texts: user -> text. held_out: (user, item) of the part. titles: item -> title.
    Raises:
        DataError: when no user of the texts has a held-out item with a title.
    """
    from scipy.stats import binomtest

    items: dict[str, list[str]] = {}
    for user, item in held_out:
        if user in texts and normal_titles(titles.get(item, "")):
            items.setdefault(user, []).append(item)
    if not items:
        raise DataError(f"no user of the texts has a {part} item with a title; are they of this dataset and protocol?")
    padded = {user: f" {normal(texts[user])} " for user in items}
    names = {item: [f" {t} " for t in normal_titles(titles[item])] for own in items.values() for item in own}

    def named(user: str, of: Sequence[str]) -> list[str]:
        return [item for item in of if any(name in padded[user] for name in names[item])]

    found = {user: hits for user, own in items.items() if (hits := named(user, own))}
    pool, rng = [item for own in items.values() for item in own], np.random.default_rng(seed)
    by_chance = 0
    for user, own in items.items():
        for _ in range(_DRAWS):
            by_chance += bool(named(user, [pool[k] for k in rng.integers(len(pool), size=len(own))]))
    # never 0: a chance that was not seen in so many draws is smaller than one of them, not impossible
    chance = max(by_chance, 1) / (_DRAWS * len(items))
    p = float(binomtest(len(found), len(items), chance, alternative="greater").pvalue)
    examples = tuple((user, titles[hits[0]]) for user, hits in list(found.items())[:5])
    return Named(part, len(items), len(found), chance, p, examples)


def audit(config, texts: Mapping[str, str], titles: Mapping[str, str]) -> list[Named]:
    """Both held-out parts of a configuration's split; nothing is trained.

    Args:
        config: from ``build_config``; its protocol decides what is held out.
    """
    from recbole_llm.experiment.data import build_data

    data = build_data(config)
    users, items = (data.base.field2id_token[field] for field in (data.base.uid_field, data.base.iid_field))

    def pairs(rows: np.ndarray) -> list[tuple[str, str]]:
        return [(str(users[data.user_ids[r]]), str(items[data.item_ids[r]])) for r in rows]

    parts = {"valid": data.split.valid, "test": data.split.open_test()}
    return [named_items(part, texts, pairs(rows), titles) for part, rows in parts.items() if len(rows)]
