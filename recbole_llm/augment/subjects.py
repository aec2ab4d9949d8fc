"""What is asked about: an item, a user, a user's candidates. Histories hold training rows alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_llm.augment.prompts import Prompt
from recbole_llm.data.text import Words
from recbole_llm.errors import ConfigError

TITLE = "title"  # a placeholder that stands for whichever column holds titles


@dataclass(frozen=True)
class Subject:
    """One question.

    Attributes:
        id_field, token: whom it is about. values: for the prompt's placeholders. check: see ``Chat.ask``.
        record: the line that an answer gives.
    """

    id_field: str
    token: str
    values: Mapping[str, Any]
    check: Callable[[dict], str | None]
    record: Callable[[dict], dict[str, Any]]


def item_subjects(rows: Sequence[Mapping[str, Any]], id_field: str, prompt: Prompt, title: str) -> Iterator[Subject]:
    """One an item, its columns in the placeholders.

    Args:
        rows: of ``<dataset>.item``. title: the column that ``{title}`` stands for, where there is none of this name.
    Raises:
        ConfigError: when the prompt names a column that is not there.
    """
    columns = set(rows[0]) | ({TITLE} if title else set())
    missing = [name for name in prompt.placeholders if name not in columns]
    if missing:
        raise ConfigError(
            f"prompt {prompt.name} asks for {{{missing[0]}}}; the items have: {', '.join(sorted(columns))}"
        )
    for row in rows:
        values = {name: Words(row[name if name in row else title]) for name in prompt.placeholders}
        if any(map(str, values.values())):
            token = str(row[id_field])
            yield Subject(id_field, token, values, lambda answer: None, lambda answer, t=token: {**answer, id_field: t})


def profile_subjects(
    histories: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    users: Mapping[str, Mapping[str, Any]],
    prompt: Prompt,
) -> Iterator[Subject]:
    """One a user: the titles of the last items of the training history, oldest first.

    Args:
        users: user -> columns of ``<dataset>.user``, of which only those that the prompt names are sent.
    Raises:
        ConfigError: when the prompt names a column that is not there.
    """
    for user, items in histories.items():
        own = {"history": history_text(items, titles, prompt.history_items)}
        values = _user_values(prompt, own, users.get(user, {}))
        yield Subject("user_id", user, values, lambda answer: None, lambda answer, u=user: {**answer, "user_id": u})


def edge_subjects(
    histories: Mapping[str, Sequence[str]],
    candidates: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    users: Mapping[str, Mapping[str, Any]],
    prompt: Prompt,
) -> Iterator[Subject]:
    """One a user with candidates: which of them fits best, and which least. See :func:`profile_subjects`."""
    for user, items in candidates.items():
        own = {"history": history_text(histories.get(user, ()), titles, prompt.history_items)}
        own["candidates"] = "\n".join(f"{k}: {titles.get(item, item)}" for k, item in enumerate(items, start=1))

        def check(answer: dict, n: int = len(items)) -> str | None:
            for name in ("liked", "disliked"):
                if name not in answer or int(answer[name]) != answer[name]:
                    return f"{name} must be the number of a candidate"
                if not 1 <= answer[name] <= n:
                    return f"{OUTSIDE}: {name} is {answer[name]}, and the candidates are 1 to {n}"
            return "liked and disliked are the same candidate" if answer["liked"] == answer["disliked"] else None

        def record(answer: dict, user: str = user, items: Sequence[str] = items) -> dict[str, Any]:
            return {"user_id": user} | {name: items[int(answer[name]) - 1] for name in ("liked", "disliked")}

        yield Subject("user_id", user, _user_values(prompt, own, users.get(user, {})), check, record)


def _user_values(prompt: Prompt, own: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    """What the prompt asks for, of a history and of a user's own columns."""
    missing = [name for name in prompt.placeholders if name not in own and name not in row]
    if missing:
        there = ", ".join([*own, *row])
        raise ConfigError(f"prompt {prompt.name} asks for {{{missing[0]}}}; of a user there are: {there}")
    return {name: own[name] if name in own else Words(row[name]) for name in prompt.placeholders}


OUTSIDE = "no such candidate"


def history_text(items: Sequence[str], titles: Mapping[str, str], most: int) -> str:
    """The last items, a line each."""
    return "\n".join(f"- {titles.get(item, item)}" for item in items[max(0, len(items) - most) :])


def training_histories(data) -> dict[str, list[str]]:
    """User -> items of the training rows, oldest first. data: a RecData; no other rows are touched."""
    rows = data.by_time(data.split.train)
    users, items = (data.base.field2id_token[field] for field in (data.base.uid_field, data.base.iid_field))
    found: dict[str, list[str]] = {}
    for user, item in zip(data.user_ids[rows], data.item_ids[rows], strict=True):
        found.setdefault(str(users[user]), []).append(str(items[item]))
    return found


def embedding_edges(
    histories: Mapping[str, Sequence[str]],
    candidates: Mapping[str, Sequence[str]],
    rows: Mapping[str, np.ndarray],
) -> Iterator[dict[str, Any]]:
    """Edges by text alone: of the candidates with a row, the nearest to the mean of the history, and the farthest.

    Args:
        rows: item -> embedding of length 1.
    """
    for user, items in candidates.items():
        known, own = [i for i in items if i in rows], [rows[i] for i in histories.get(user, ()) if i in rows]
        if len(known) > 1 and own:
            nearness = np.array([rows[item] for item in known]) @ np.mean(own, axis=0)
            best, worst = int(nearness.argmax()), int(nearness.argmin())
            if best != worst:  # equal texts do not tell
                yield {"user_id": user, "liked": known[best], "disliked": known[worst]}
