"""The embeddings client against a server of this machine that speaks the protocol, and misbehaves."""

import numpy as np
import pytest
from encoding_fakes import embedding_of, endpoint

from recbole_llm.encoding.choose import Options, make_encoder
from recbole_llm.encoding.endpoint import EndpointEncoder, EndpointError, is_local
from recbole_llm.encoding.rows import encode_rows, make_plan
from recbole_llm.encoding.store import RowStore
from recbole_llm.errors import ConfigError

pytestmark = pytest.mark.slow

TEXTS = ["a short one", "another", "a third"]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with endpoint() as state:
        yield state


def encoder_of(server, **options) -> EndpointEncoder:
    return EndpointEncoder("small", server.base, **{"retries": 2, "timeout_s": 1.0} | options)


def test_rows_belong_to_their_texts(server):
    rows = encoder_of(server).encode(TEXTS)
    np.testing.assert_allclose(rows, [embedding_of(text) for text in TEXTS], rtol=1e-6)
    assert rows.dtype == np.float32 and server.bodies[0]["model"] == "small"
    assert encoder_of(server, dimensions=2).encode(TEXTS).shape == (3, 2)


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    encoder = encoder_of(server)
    encoder.encode(TEXTS)
    assert server.keys == ["Bearer sk-secret"] and "sk-secret" not in str(encoder.identity)


@pytest.mark.parametrize("fault", [429, 500, 503, "slow", "truncated"])
def test_a_passing_fault_is_asked_again(server, fault):
    server.faults = [fault]
    encoder = encoder_of(server)
    np.testing.assert_allclose(encoder.encode(TEXTS), [embedding_of(text) for text in TEXTS], rtol=1e-6)
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([401] * 9, "does not give embeddings .*401"),
        ([500] * 9, "does not give embeddings .*500"),
        (["slow"] * 9, "does not give embeddings .*timed out"),
        (["fewer"] * 9, "not with one embedding for each text"),
        (["no json"] * 9, "not with one embedding for each text"),
    ],
)
@pytest.mark.slow
def test_a_lasting_fault_is_one_sentence(server, faults, message):
    server.faults = list(faults)
    with pytest.raises(EndpointError, match=message) as caught:
        encoder_of(server, timeout_s=0.3).encode(TEXTS)
    assert "\n" not in str(caught.value)


def test_a_text_that_is_too_long_is_named(server):
    server.longest = 20
    assert encoder_of(server).encode(TEXTS).shape == (3, 4)
    with pytest.raises(EndpointError, match="it is about the text 'a text that is longer than others'"):
        encoder_of(server).encode([*TEXTS, "a text that is longer than others"])


def test_a_gateway_that_repeats_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.faults = [401]
    with pytest.raises(EndpointError, match="Bearer <key>") as caught:
        encoder_of(server).encode(TEXTS)
    assert "sk-secret" not in str(caught.value)


def test_what_a_broken_off_run_has_paid_for_is_not_asked_again(server, tmp_path):
    texts = {f"t{k}": f"text number {k}" for k in range(40)}
    server.faults = [None, None, None, 401]
    with RowStore(tmp_path / "s") as store:
        for attempt in range(2):
            encoder = encoder_of(server, requests=1)
            plan = make_plan(texts, encoder, store, np.float16, 4)
            if attempt == 0:
                with pytest.raises(EndpointError):
                    encode_rows(plan, encoder, store, np.float16)
            else:
                encode_rows(plan, encoder, store, np.float16)
    assert set(server.texts.values()) == {1} and len(server.texts) == 40


def test_requests_run_side_by_side(server, tmp_path):
    server.delay_s = 0.2
    texts = {f"t{k}": f"text number {k}" for k in range(16)}
    encoder = encoder_of(server, requests=8)
    with RowStore(tmp_path / "s") as store:
        made = encode_rows(make_plan(texts, encoder, store, np.float32, 2), encoder, store, np.float32)
    np.testing.assert_allclose(made.embedding, [embedding_of(text) for text in texts.values()], rtol=1e-6)


class TestWhatMayLeave:
    def test_addresses(self):
        assert is_local("http://localhost:11434/v1") and is_local("http://127.0.0.1/v1") and is_local("http://[::1]/v1")
        assert not is_local("https://api.example.com/v1") and not is_local("http://localhost.example.com")
        with pytest.raises(ConfigError, match="is no address"):
            EndpointEncoder("small", "api.example.com/v1")
        for secret in ("https://me:secret@host/v1", "https://host/v1?key=secret"):
            with pytest.raises(ConfigError, match="takes an address alone") as caught:
                EndpointEncoder("small", secret)
            assert "secret" not in str(caught.value)

    def test_texts_about_users_only_when_told(self):
        options = Options("small", "https://api.example.com/v1")
        with pytest.raises(ConfigError, match="--allow-upload"):
            make_encoder(options, "text", about_users=True)
        assert make_encoder(options, "text", about_users=False).uploads
        allowed = Options("small", "https://api.example.com/v1", allow_upload=True)
        assert make_encoder(allowed, "text", about_users=True).uploads
        assert not make_encoder(Options("small", "http://localhost:1/v1"), "text", about_users=True).uploads

    def test_elsewhere_needs_a_key(self, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(ConfigError, match="put it into the environment as OPENAI_API_KEY"):
            EndpointEncoder("small", "https://api.example.com/v1").encode(TEXTS)

    def test_options_that_do_not_go_together(self):
        with pytest.raises(ConfigError, match="an endpoint takes texts"):
            make_encoder(Options("small", "http://localhost:1/v1"), "image", about_users=False)
        with pytest.raises(ConfigError, match="--dimensions is for endpoints"):
            make_encoder(Options(dimensions=3), "text", about_users=False)
        with pytest.raises(ConfigError, match="--requests must be at least 1"):
            make_encoder(Options(requests=0), "text", about_users=False)
