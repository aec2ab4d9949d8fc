"""Embeddings from an endpoint that speaks OpenAI's protocol: OpenAI itself, vLLM, Ollama, and others."""

import functools
import os
import time
import urllib.parse
from collections.abc import Sequence

import numpy as np

from recbole_llm.encoding.encoder import Content, Encoder
from recbole_llm.encoding.find import find_package
from recbole_llm.errors import ConfigError, RecBoleLLMError

KEY_VARIABLE = "OPENAI_API_KEY"
_LOCAL = ("localhost", "127.0.0.1", "::1")


class EndpointError(RecBoleLLMError):
    """An endpoint refuses, does not answer, or answers something else than was asked for."""


class RefusedError(EndpointError):
    """An endpoint refuses one request for what is in it: too long, or against its rules."""


_FOR_WHAT_IS_IN_IT = (400, 413, 422)


def endpoint_error(what: str, error: Exception) -> EndpointError:
    """The error to raise for one of the client's."""
    status = getattr(error, "status_code", None)
    return (RefusedError if status in _FOR_WHAT_IS_IN_IT else EndpointError)(f"{what} ({said(error)})")


def is_local(api_base: str) -> bool:
    """Whether an endpoint runs on this machine."""
    return urllib.parse.urlsplit(api_base).hostname in _LOCAL


def check_base(api_base: str) -> str:
    """The address of an endpoint, without the slash at its end.

    Raises:
        ConfigError: when it is no http or https address.
    """
    parts = urllib.parse.urlsplit(api_base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--api-base: '{api_base}' is no address; write it as in http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:  # it ends up in messages and in files
        raise ConfigError(f"--api-base takes an address alone; put the key into the environment as {KEY_VARIABLE}")
    return api_base.rstrip("/")


def open_client(api_base: str, retries: int, timeout_s: float):
    """A client that waits and asks again on 429, 5xx, time-outs and broken connections.

    The key comes from $OPENAI_API_KEY alone; endpoints of this machine need none.

    Raises:
        ConfigError: when there is no key for an endpoint elsewhere.
        MissingDependencyError: without the extra ``llm``.
    """
    find_package("openai", "llm")
    from openai import OpenAI

    key = os.environ.get(KEY_VARIABLE)
    if not key and not is_local(api_base):
        raise ConfigError(f"{api_base} needs a key: put it into the environment as {KEY_VARIABLE}")
    return OpenAI(base_url=api_base, api_key=key or "none", max_retries=retries, timeout=timeout_s)


class EndpointEncoder(Encoder):
    """An embedding model behind an endpoint.

    Args:
        model: its name there, such as text-embedding-3-small.
        api_base: address, up to and with /v1.
        dimensions: ask for shorter rows, where the model can give them; None: its own.
        requests: how many may be under way at once.
    """

    def __init__(
        self,
        model: str,
        api_base: str,
        *,
        dimensions: int | None = None,
        requests: int = 4,
        retries: int = 6,
        timeout_s: float = 60.0,
    ) -> None:
        self.requests, self.uploads = requests, not is_local(api_base)
        self._model, self._base, self._dimensions = model, check_base(api_base), dimensions
        self._retries, self._timeout_s = retries, timeout_s
        self.identity = {
            "encoder": model,
            "revision": f"served by {urllib.parse.urlsplit(self._base).netloc}",  # without user and password
            "pooling": "the endpoint's" if dimensions is None else f"the endpoint's, {dimensions} dimensions",
            "preprocessing": "white space collapsed",
            "precision": "the endpoint's",
        }

    @functools.cached_property
    def _client(self):
        return open_client(self._base, self._retries, self._timeout_s)

    def encode(self, contents: Sequence[Content]) -> np.ndarray:
        """Raises: EndpointError, when the endpoint refuses, or does not answer after all retries."""
        try:
            return self._rows(contents)
        except RefusedError as error:
            if len(contents) == 1:
                raise EndpointError(f"{error}; it is about the text {str(contents[0])[:60]!r}") from None
            half = len(contents) // 2  # one text of the batch is too long: find it, keep the others
            return np.concatenate([self.encode(contents[:half]), self.encode(contents[half:])])

    def _rows(self, contents: Sequence[Content]) -> np.ndarray:
        client = self._client  # names a missing package before the import does
        from openai import OpenAIError

        wanted = {} if self._dimensions is None else {"dimensions": self._dimensions}
        for attempt in range(self._retries + 1):  # the client itself repeats what failed; here, what came out mangled
            try:
                answer = client.embeddings.create(
                    model=self._model, input=list(contents), encoding_format="float", **wanted
                )
                rows = {entry.index: entry.embedding for entry in answer.data}
                return np.array([rows[k] for k in range(len(contents))], dtype=np.float32)
            except OpenAIError as error:
                raise endpoint_error(f"{self._base} does not give embeddings", error) from None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                if attempt == self._retries:
                    raise EndpointError(
                        f"{self._base} answers, but not with one embedding for each text ({said(error)})"
                    ) from None
                time.sleep(min(0.25 * 2**attempt, 8.0))
        raise AssertionError("the last attempt returns or raises")


def said(error: Exception) -> str:
    """An error of the client, short and on one line."""
    text = " ".join(str(error).split())
    if key := os.environ.get(KEY_VARIABLE):
        text = text.replace(key, "<key>")  # some gateways repeat it
    return f"{type(error).__name__}: {text[:200]}"
