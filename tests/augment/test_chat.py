"""The chat client against a server of this machine that speaks the protocol, and misbehaves."""

import json
import threading

import pytest
from encoding_fakes import endpoint

from recbole_llm.augment.chat import BadAnswerError, BudgetSpentError, Chat, NotInLedgerError, Terms
from recbole_llm.augment.ledger import Ledger
from recbole_llm.augment.prompts import Prompt, read_prompt
from recbole_llm.encoding.endpoint import EndpointError
from recbole_llm.errors import ConfigError, DataError

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
PROMPT = Prompt("count", 3, "You count.", "Count to {n}.", SCHEMA, max_tokens=50, placeholders=("n",))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with endpoint() as state:
        state.chat = lambda messages: json.dumps({"n": 7})
        yield state


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger") as ledger:
        yield ledger


def chat_of(server, ledger, **terms) -> Chat:
    return Chat("m", server.base, ledger, Terms(**{"retries": 2, "timeout_s": 1.0} | terms))


def test_an_answer_and_what_the_ledger_keeps(server, ledger):
    chat = chat_of(server, ledger, price_in=1.0, price_out=10.0)
    assert chat.ask(PROMPT, {"n": 7}) == {"n": 7}
    (body,) = server.bodies
    assert [m["role"] for m in body["messages"]] == ["system", "user"] and body["max_tokens"] == 50
    assert body["messages"][1]["content"] == "Count to 7."
    totals = ledger.totals()
    assert (totals.calls, totals.tokens_in, totals.tokens_out) == (1, 5, 10)  # 21 characters
    assert chat.spent == totals.usd == pytest.approx(105e-6) and chat.asked == 1


def test_nothing_is_asked_twice(server, ledger, tmp_path):
    for _ in range(3):
        assert chat_of(server, ledger).ask(PROMPT, {"n": 7}) == {"n": 7}
    with Ledger(tmp_path / "ledger") as again:
        chat_of(server, again).ask(PROMPT, {"n": 7})
    assert len(server.bodies) == 1
    chat_of(server, ledger).ask(PROMPT, {"n": 8})
    assert len(server.bodies) == 2


@pytest.mark.parametrize("fault", [429, 500, "slow", "truncated", "no json"])
def test_a_passing_fault_is_asked_again(server, ledger, fault):
    server.faults = [fault]
    assert chat_of(server, ledger).ask(PROMPT, {"n": 7}) == {"n": 7}
    assert len(server.bodies) == 2 and ledger.totals().calls == 1


@pytest.mark.parametrize(
    ("faults", "message"),
    [([401] * 9, "401"), ([500] * 9, "500"), (["slow"] * 9, "timed out"), (["no json"] * 9, "chat protocol")],
)
@pytest.mark.slow
def test_a_lasting_fault_is_one_sentence_without_the_key(server, ledger, faults, message, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.faults = list(faults)
    with pytest.raises(EndpointError, match=message) as caught:
        chat_of(server, ledger, timeout_s=0.3).ask(PROMPT, {"n": 7})
    assert "\n" not in str(caught.value) and "sk-secret" not in str(caught.value)
    assert (
        "\n" not in str(caught.value)
        and set(server.keys) == {"Bearer sk-secret"}
        and b"sk-secret" not in ledger.path.read_bytes()
    )


@pytest.mark.parametrize("first", ["seven", '{"n": 7', '{"n": "7"}', '{"n": 7, "more": 1}', "[7]", ""])
def test_a_malformed_answer_is_asked_again_with_the_reason(server, ledger, first):
    server.chat = lambda messages: first if len(messages) == 2 else '```json\n{"n": 7}\n```'
    assert chat_of(server, ledger).ask(PROMPT, {"n": 7}) == {"n": 7}
    said = server.bodies[1]["messages"]
    assert said[2] == {"role": "assistant", "content": first} and said[3]["content"].startswith("This cannot be used: ")
    assert chat_of(server, ledger).ask(PROMPT, {"n": 7}) == {"n": 7} and len(server.bodies) == 2  # both are kept


def test_an_answer_that_stays_malformed(server, ledger):
    server.chat = lambda messages: "no"
    with pytest.raises(BadAnswerError, match="no usable answer after 3 attempts; the last: it is no JSON"):
        chat_of(server, ledger).ask(PROMPT, {"n": 7})
    with pytest.raises(BadAnswerError):
        chat_of(server, ledger).ask(PROMPT, {"n": 7})
    assert len(server.bodies) == 3


def test_what_the_schema_cannot_say(server, ledger):
    server.chat = lambda messages: json.dumps({"n": len(messages)})
    check = {2: "two is too few"}.get
    assert chat_of(server, ledger).ask(PROMPT, {"n": 7}, lambda answer: check(answer["n"])) == {"n": 4}


class TestBudget:
    def test_it_is_never_exceeded_side_by_side(self, server, ledger):
        server.delay_s = 0.05
        chat = chat_of(server, ledger, price_in=10_000.0, price_out=10_000.0, budget=2.0)  # each costs .15, .87 at most
        refused = []

        def ask(n: int) -> None:
            try:
                chat.ask(PROMPT, {"n": n})
            except BudgetSpentError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert chat.spent <= 2.0 and len(refused) == 12 - chat.asked
        assert chat.asked >= 6  # a request waits for those under way, whose cost is less than they reserve
        assert "the budget of 2 USD does not allow another request" in refused[0]

    def test_what_the_ledger_has_costs_nothing(self, server, ledger):
        chat_of(server, ledger).ask(PROMPT, {"n": 7})
        broke = chat_of(server, ledger, price_in=1e6, budget=0.0)
        assert broke.ask(PROMPT, {"n": 7}) == {"n": 7} and broke.spent == 0.0
        with pytest.raises(BudgetSpentError):
            broke.ask(PROMPT, {"n": 8})

    def test_an_answer_that_does_not_tell_its_cost_costs_the_most(self, server, ledger):
        server.tells_usage = False
        chat = chat_of(server, ledger, price_in=10_000.0, price_out=10_000.0, budget=1.0)
        chat.ask(PROMPT, {"n": 7})
        assert chat.spent == pytest.approx(0.87)
        with pytest.raises(BudgetSpentError):
            chat.ask(PROMPT, {"n": 8})

    def test_without_prices(self, server, ledger):
        with pytest.raises(ConfigError, match="give --price-in and --price-out"):
            chat_of(server, ledger, budget=1.0)


def test_one_question_at_once_is_asked_once(server, ledger):
    server.delay_s = 0.1
    chat = chat_of(server, ledger)
    threads = [threading.Thread(target=chat.ask, args=(PROMPT, {"n": 7})) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.bodies) == 1 and chat.asked == 1


def test_half_a_character_is_replaced(server, ledger):
    prompt = Prompt("say", 1, "s", "u", {"type": "object"})
    server.chat = lambda messages: '{"text": "a \\ud83d b", "list": ["\\ud83d\\ude00"]}'
    assert chat_of(server, ledger).ask(prompt, {}) == {"text": "a \ufffd b", "list": ["\U0001f600"]}


def test_replay_is_offline(server, ledger):
    chat_of(server, ledger).ask(PROMPT, {"n": 7})
    offline = Chat("m", "", ledger, Terms(replay=True))
    assert offline.ask(PROMPT, {"n": 7}) == {"n": 7}
    with pytest.raises(NotInLedgerError, match="has no answer of m to this"):
        offline.ask(PROMPT, {"n": 8})


def test_what_is_no_ledger(tmp_path):
    (tmp_path / "x").write_bytes(b"something else entirely" * 50)
    with pytest.raises(DataError, match="is no ledger"):
        Ledger(tmp_path / "x")


class TestPrompts:
    @pytest.mark.parametrize("kind", ["item_attributes", "user_profile", "edges"])
    def test_shipped_ones(self, kind):
        from jsonschema import Draft202012Validator

        prompt = read_prompt(kind)
        Draft202012Validator.check_schema(dict(prompt.schema))
        assert prompt.name == kind and prompt.version >= 1 and prompt.placeholders

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("version: 1", "it needs version, system, user and schema"),
            ("version: 1\nsystem: a\nuser: '{b'\nschema: {}", "is no prompt"),
            ("version: 1\nsystem: a\nuser: b\nschema: {}\ntemprature: 1", "unknown key 'temprature'"),
            ("a: [", "is no prompt"),
        ],
    )
    def test_what_is_wrong(self, tmp_path, text, message):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_prompt(tmp_path / "p.yaml")

    def test_no_file(self):
        with pytest.raises(ConfigError, match="no prompt file nothing"):
            read_prompt("nothing")
