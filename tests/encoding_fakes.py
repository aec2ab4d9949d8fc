"""An encoder that counts, and an endpoint of this machine, embeddings and chat, that misbehaves on request."""

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from recbole_llm.encoding.encoder import Encoder

DIM = 4


def embedding_of(text: str, dim: int = DIM) -> list[float]:
    """A row that only this text has."""
    digest = hashlib.sha256(text.encode()).digest()
    return [byte / 256 - 0.5 for byte in digest[:dim]]


class Counting(Encoder):
    """Encodes by hash; keeps the batches it was given; fails from the ``fail_at``-th batch on."""

    def __init__(self, revision: str = "1", fail_at: int | None = None, requests: int = 1) -> None:
        self.identity = {"encoder": "counting", "revision": revision, "pooling": "none"}
        self.batches: list[list] = []
        self.fail_at, self.requests = fail_at, requests

    def encode(self, contents):
        if self.fail_at is not None and len(self.batches) >= self.fail_at:
            raise RuntimeError("pulled the plug")
        self.batches.append(list(contents))
        return np.array([embedding_of(str(content)) for content in contents], dtype=np.float32)


class Endpoint:
    """What an embeddings endpoint was asked, and how it is to answer next.

    Attributes:
        base: its address. texts: how often each text was asked for. keys: Authorization headers.
        faults: taken from the front, one a request: a status code, "slow", "truncated", "fewer" or "no json".
        delay_s: before every answer. longest: characters of a text that is not refused, 0: any.
        chat: messages of a chat request -> what the model says. tells_usage: whether it tells the tokens.
    """

    def __init__(self) -> None:
        self.base, self.delay_s = "", 0.0
        self.texts: Counter[str] = Counter()
        self.keys: list[str | None] = []
        self.bodies: list[dict] = []
        self.faults: list[int | str] = []
        self.tells_usage, self.longest = True, 0
        self.chat: Callable[[list[dict]], str] = lambda messages: "{}"
        self.lock = threading.Lock()


@contextlib.contextmanager
def endpoint() -> Iterator[Endpoint]:
    """A running endpoint."""
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.keys.append(self.headers["Authorization"])
                state.bodies.append(body)
                fault = state.faults.pop(0) if state.faults else None
            time.sleep(state.delay_s)
            if isinstance(fault, int):
                self.answer(
                    fault,
                    json.dumps({"error": {"message": f"fault {fault}, {self.headers['Authorization']}"}}).encode(),
                )
                return
            if fault == "slow":
                time.sleep(3)
            if state.longest and any(len(text) > state.longest for text in body.get("input", ())):
                self.answer(400, json.dumps({"error": {"message": "too long"}}).encode())
                return
            if self.path.endswith("/chat/completions"):
                self.say(body, fault)
                return
            with state.lock:
                state.texts.update(body["input"])
            dim = body.get("dimensions", DIM)
            data = [{"index": k, "embedding": embedding_of(text, dim)} for k, text in enumerate(body["input"])]
            data.reverse()  # the protocol says the order by index, not by place
            if fault == "fewer":
                data.pop()
            raw = json.dumps({"object": "list", "data": data, "model": body["model"], "usage": {}}).encode()
            if fault == "truncated":
                raw = raw[: len(raw) // 2]
            self.answer(200, b"<html>" if fault == "no json" else raw)

        def say(self, body: dict, fault: int | str | None) -> None:
            with state.lock:
                state.texts[body["messages"][-1]["content"]] += 1
            text = state.chat(body["messages"])
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            asked = sum(len(message["content"]) for message in body["messages"]) // 4
            usage = {"prompt_tokens": asked, "completion_tokens": 10, "total_tokens": asked + 10}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
            answer |= {"choices": [choice]} | ({"usage": usage} if state.tells_usage else {})
            raw = json.dumps(answer).encode()
            if fault == "truncated":
                raw = raw[: len(raw) // 2]
            self.answer(200, b"<html>" if fault == "no json" else raw)

        def answer(self, status: int, raw: bytes) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(raw)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.base = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
