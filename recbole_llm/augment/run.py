"""Asks about many subjects at once."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

from recbole_llm.augment.chat import BadAnswerError, BudgetSpentError, Chat, NotInLedgerError
from recbole_llm.augment.prompts import Prompt
from recbole_llm.augment.subjects import OUTSIDE, Subject
from recbole_llm.encoding.endpoint import EndpointError, RefusedError


@dataclass(frozen=True)
class Answers:
    """What came back.

    Attributes:
        records: of the answered subjects, in the order of these. counts: answered, malformed (no usable answer),
            outside (the last answer named no candidate), outside_replies (answers of that kind, those that were asked
            again among them), refused (by the endpoint, for what is in the question),
            missing (a replay's ledger has none), unasked (it stopped before).
        stopped: why it ended early; "" otherwise. error: of the endpoint, where that ended it.
    """

    records: list[dict[str, Any]]
    counts: Mapping[str, int]
    stopped: str = ""
    error: EndpointError | None = None

    @property
    def complete(self) -> bool:
        """Whether every subject was asked about."""
        return not (self.counts["missing"] or self.counts["unasked"])


def ask_all(
    subjects: Sequence[Subject], prompt: Prompt, chat: Chat, requests: int, done: Callable[[int], None] = lambda n: None
) -> Answers:
    """Ask about every subject, several at a time; an answer that cannot be had costs its subject alone.

    An endpoint that does not answer, or a spent budget, ends it: what has come back is given all the same.

    Args:
        requests: at a time. done: called with 1 after each subject.
    """
    found: dict[int, dict[str, Any]] = {}
    counts = Counter(answered=0, malformed=0, outside=0, outside_replies=0, refused=0, missing=0, unasked=0)
    outside: list[int] = []  # appending is safe from several threads, counting is not

    def checked(k: int, answer: dict[str, Any]) -> str | None:
        reason = subjects[k].check(answer)
        if reason and OUTSIDE in reason:
            outside.append(k)
        return reason

    stopped, failed = "", None
    with ThreadPoolExecutor(requests) as pool:
        tasks = {pool.submit(chat.ask, prompt, s.values, partial(checked, k)): k for k, s in enumerate(subjects)}
        try:
            for task in as_completed(list(tasks)):
                k = tasks.pop(task)
                try:
                    found[k] = subjects[k].record(task.result())
                    counts["answered"] += 1
                except CancelledError:
                    counts["unasked"] += 1
                except NotInLedgerError:
                    counts["missing"] += 1
                except (BadAnswerError, KeyError, TypeError, ValueError) as error:
                    counts["outside" if OUTSIDE in str(error) else "malformed"] += 1
                except RefusedError:
                    counts["refused"] += 1
                except (BudgetSpentError, EndpointError) as error:
                    counts["unasked"] += 1
                    stopped, failed = str(error), error if isinstance(error, EndpointError) else failed
                    for other in tasks:
                        other.cancel()
                done(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    counts["outside_replies"] = len(outside)
    return Answers([found[k] for k in sorted(found)], dict(counts), stopped, failed)
