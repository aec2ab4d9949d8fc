"""Asks about many subjects at once, and writes what came back with where it came from."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.augment.chat import BadAnswerError, BudgetSpentError, Chat, NotInLedgerError
from recbole_llm.augment.prompts import Prompt
from recbole_llm.augment.subjects import OUTSIDE, Subject
from recbole_llm.data.files import atomic_writer


@dataclass(frozen=True)
class Answers:
    """What came back.

    Attributes:
        records: of the answered subjects, in the order of these. counts: answered, malformed (no usable answer),
            outside (the last answer named no candidate), missing (a replay's ledger has none), unasked (the budget).
        stopped: why it ended early; "" otherwise.
    """

    records: list[dict[str, Any]]
    counts: Mapping[str, int]
    stopped: str = ""


def ask_all(
    subjects: Sequence[Subject], prompt: Prompt, chat: Chat, requests: int, done: Callable[[int], None] = lambda n: None
) -> Answers:
    """Ask about every subject, several at a time; an answer that cannot be had costs its subject alone.

    Args:
        requests: at a time. done: called with 1 after each subject.
    Raises:
        EndpointError: when the endpoint refuses, or does not answer after all retries; the ledger keeps what it has.
    """
    found: dict[int, dict[str, Any]] = {}
    counts, stopped = Counter(answered=0, malformed=0, outside=0, missing=0, unasked=0), ""
    with ThreadPoolExecutor(requests) as pool:
        tasks = {pool.submit(chat.ask, prompt, s.values, s.check): k for k, s in enumerate(subjects)}
        try:
            for task in as_completed(list(tasks)):
                k = tasks.pop(task)
                try:
                    found[k] = subjects[k].record(task.result())
                    counts["answered"] += 1
                except NotInLedgerError:
                    counts["missing"] += 1
                except BadAnswerError as error:
                    counts["outside" if OUTSIDE in str(error) else "malformed"] += 1
                except BudgetSpentError as error:
                    counts["unasked"] += 1
                    stopped = str(error)
                done(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Answers([found[k] for k in sorted(found)], dict(counts), stopped)


def write_answers(path: Path, records: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]) -> Path:
    """Write JSON lines, and beside them ``<name>.meta.json``: what they are and what they were made from.

    Returns:
        the file of the metadata.
    """
    with atomic_writer(path) as file:
        file.writelines((json.dumps(record, ensure_ascii=False) + "\n").encode() for record in records)
    beside = path.with_name(f"{path.name.removesuffix('.jsonl')}.meta.json")
    with atomic_writer(beside) as file:
        file.write((json.dumps(dict(metadata), indent=1, ensure_ascii=False) + "\n").encode())
    return beside
