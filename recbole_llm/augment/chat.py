"""Asks a chat endpoint of OpenAI's protocol for JSON: within a budget, no question twice, again where it is amiss."""

import functools
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_llm.augment.ledger import Call, Ledger, request_key
from recbole_llm.augment.prompts import Prompt
from recbole_llm.encoding.endpoint import EndpointError, check_base, endpoint_error, open_client, said
from recbole_llm.errors import ConfigError, RecBoleLLMError

_TOKENS_A_MESSAGE = 8  # around each message's own


class BudgetSpentError(RecBoleLLMError):
    """The next request could exceed the budget."""


class NotInLedgerError(RecBoleLLMError):
    """A replay asks for what was never answered."""


class BadAnswerError(RecBoleLLMError):
    """An answer stays malformed, however often it is asked again."""


@dataclass(frozen=True)
class Terms:
    """What requests may cost and how they are made.

    Attributes:
        price_in, price_out: USD a million tokens. budget: USD that requests may cost in all, those of the ledger not
            counted; None: no bound. attempts: how often a malformed answer is asked for again, one included.
        replay: answer from the ledger alone.
    """

    price_in: float = 0.0
    price_out: float = 0.0
    budget: float | None = None
    attempts: int = 3
    retries: int = 6
    timeout_s: float = 120.0
    replay: bool = False


class Chat:
    """A chat model behind an endpoint, and the ledger of what it has answered. For several threads.

    Attributes:
        spent: USD of this object's own requests. asked: how many they were.
    """

    def __init__(self, model: str, api_base: str, ledger: Ledger, terms: Terms) -> None:
        if terms.budget is not None and not (terms.price_in or terms.price_out):
            raise ConfigError("a budget needs prices: give --price-in and --price-out, USD of a million tokens")
        base = "" if terms.replay else check_base(api_base)
        self.model, self._base, self._ledger, self._terms = model, base, ledger, terms
        self.spent, self.asked = 0.0, 0
        self._reserved, self._under_way, self._stopped, self._changed = 0.0, 0, "", threading.Condition()
        self._keys: dict[str, threading.Lock] = {}  # of questions under way

    @functools.cached_property
    def _client(self):
        return open_client(self._base, self._terms.retries, self._terms.timeout_s)

    def ask(
        self, prompt: Prompt, values: Mapping[str, Any], check: Callable[[dict], str | None] = lambda answer: None
    ) -> dict[str, Any]:
        """The answer to a prompt, a JSON object that fits its schema.

        Args:
            check: says what is wrong with an answer beyond the schema, None where it is right.
        Raises:
            BadAnswerError: when no attempt gives one. BudgetSpentError, NotInLedgerError: see there.
            EndpointError: when the endpoint refuses, or does not answer after all retries.
        """
        messages, reason = prompt.messages(values), ""
        for _ in range(self._terms.attempts):
            reply = self._reply(prompt, messages)
            answer, reason = _parsed(reply, prompt.schema)
            if answer is not None and not (reason := check(answer) or ""):
                return answer
            again = f"This cannot be used: {reason}. Answer again, with the JSON object alone."
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": again}]
        raise BadAnswerError(f"no usable answer after {self._terms.attempts} attempts; the last: {reason}")

    def _reply(self, prompt: Prompt, messages: list[dict[str, str]]) -> str:
        request = {
            "model": self.model,
            "messages": messages,
            "temperature": prompt.temperature,
            "max_tokens": prompt.max_tokens,
            "schema": dict(prompt.schema),
        }
        key = request_key(request)
        with self._changed:
            lock = self._keys.setdefault(key, threading.Lock())
        with lock:  # users of one history ask one question: the second one finds the answer
            if (known := self._ledger.reply(key)) is not None:
                return known
            if self._terms.replay:
                raise NotInLedgerError(f"the ledger {self._ledger.path} has no answer of {self.model} to this")
            return self._request(key, prompt, request)

    def _request(self, key: str, prompt: Prompt, request: dict[str, Any]) -> str:
        client = self._client  # names a missing package before the import does
        from openai import OpenAIError

        # a token is a byte at least
        asked = sum(len(m["content"].encode()) + _TOKENS_A_MESSAGE for m in request["messages"])
        most = self._cost(asked, prompt.max_tokens)
        start = time.perf_counter()
        for attempt in range(self._terms.retries + 1):  # the client repeats what failed; here, what came out mangled
            self._reserve(most)
            cost = most  # of an answer that says nothing of its cost, too
            try:
                answer = client.chat.completions.create(
                    model=self.model,
                    messages=request["messages"],
                    temperature=prompt.temperature,
                    max_tokens=prompt.max_tokens,
                    response_format={"type": "json_object"},
                )
                reply, usage = answer.choices[0].message.content or "", answer.usage
                tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (asked, prompt.max_tokens)
                cost = self._cost(*tokens)
                seconds = time.perf_counter() - start
                call = Call(self.model, prompt.name, prompt.version, request, reply, *tokens, seconds, cost)
                self._ledger.add(key, call)
                return reply
            except OpenAIError as error:
                cost = 0.0  # refused, or not answered at all
                raise endpoint_error(f"{self._base} does not answer", error) from None
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                if attempt == self._terms.retries:
                    raise EndpointError(f"{self._base} does not speak the chat protocol ({said(error)})") from None
            finally:
                self._release(most, cost)
            time.sleep(min(0.25 * 2**attempt, 8.0))
        raise AssertionError("the last attempt returns or raises")

    def _cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self._terms.price_in + tokens_out * self._terms.price_out) / 1e6

    def _reserve(self, usd: float) -> None:
        """Wait until the budget allows a request that may cost so much.

        Raises:
            BudgetSpentError: when it does not, with nothing else under way; then for every later request as well.
        """
        budget = self._terms.budget
        with self._changed:
            while not self._stopped and budget is not None and self.spent + self._reserved + usd > budget:
                if not self._under_way:
                    self._stopped = (
                        f"the budget of {budget:g} USD does not allow another request ({self.spent:.4f} spent); the "
                        "same command with a larger one goes on from here"
                    )
                    self._changed.notify_all()
                else:
                    self._changed.wait()
            if self._stopped:
                raise BudgetSpentError(self._stopped)
            self._reserved += usd
            self._under_way += 1

    def _release(self, reserved: float, cost: float) -> None:
        with self._changed:
            self._under_way -= 1
            self._reserved = self._reserved - reserved if self._under_way else 0.0  # no rounding is carried on
            self.spent += cost
            self.asked += 1
            self._changed.notify_all()


def _parsed(reply: str, schema: Mapping[str, Any]) -> tuple[dict | None, str]:
    """The JSON object of a reply, or None and what is wrong with it."""
    from jsonschema import Draft202012Validator

    text = reply.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        answer = _whole(json.loads(text))
    except json.JSONDecodeError as error:
        return None, f"it is no JSON ({error.msg})"
    if not isinstance(answer, dict):
        return None, "it is no JSON object"
    wrong = next(iter(Draft202012Validator(dict(schema)).iter_errors(answer)), None)
    return (answer, "") if wrong is None else (None, wrong.message[:200])


def _whole(value: Any) -> Any:
    """JSON with halves of surrogate pairs replaced: they can be written to no file."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(key): _whole(inner) for key, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value
