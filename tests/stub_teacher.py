"""A server on loopback that speaks every protocol of remote teachers, and misbehaves when told to."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

QUERIES = ["weather in a city", "bread"]
DOCUMENTS = ["find the weather", "a recipe for bread", "turn the lamp on"]
KEY = "secret-key-0123456789"
PATHS = {
    "cohere": "/v2/rerank",
    "jina": "/v1/rerank",
    "voyage": "/voyage/rerank",
    "tei": "/rerank",
    "vllm-score": "/score",
    "vllm-generate": "/generative_scoring",
    "chat": "/v1/chat/completions",
}


def log_odds_of(query: str, document: str) -> float:
    """The stub's opinion about a pair: any number that depends on both texts."""
    return (len(query) * 7 + len(document) * 3) % 11 - 5 + len(document) / 100


class StubTeacher:
    """A server whose next answers can be replaced.

    Attributes:
        replies: What is answered first, one each: (status, headers, body as bytes or JSON-ready).
        requests: (path, headers, body) of what arrived.
        times: When, in seconds of the monotonic clock.
        on_request: Called with the address of whoever asks, before the answer.
        pairs: How often each (query, document) was answered.
        delay: Seconds before each answer.
        at_once: The most requests that were being answered at one time.
        usage: Whether answers count tokens.
    """

    def __init__(self) -> None:
        self.replies: list[tuple[int, dict[str, str], Any]] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.times: list[float] = []
        self.on_request: Callable[[tuple[str, int]], None] = lambda address: None
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.delay, self.at_once, self.usage = 0.0, 0, True
        self.lock, self.active = threading.Lock(), 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def source(self, protocol: str) -> str:
        return f"{protocol}+{self.address}{PATHS[protocol]}{'' if protocol == 'tei' else '#tiny'}"

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/tokenize":
            text = (
                body.get("prompt") or "".join(f"<{m['role']}>{m['content']}" for m in body["messages"]) + "<assistant>"
            )
            return {"tokens": [ord(text[0])] if text in ("Yes", "No") else [ord(c) for c in text]}
        if path == "/detokenize":
            return {"prompt": "".join(map(chr, body["tokens"]))}
        query, documents = self._texts(path, body)
        for document in documents:
            self.pairs[query, document] += 1
        odds = [log_odds_of(query, document) for document in documents]
        usage = {"usage": {"total_tokens": 10 * len(documents)}} if self.usage else {}
        if path == PATHS["chat"]:
            return {"choices": [{"logprobs": {"content": [{"top_logprobs": top_logprobs(odds[0])}]}}], **usage}
        # The best first, as rerank servers answer.
        order = sorted(range(len(odds)), key=lambda i: -odds[i])
        if path == PATHS["tei"]:
            return [{"index": i, "score": odds[i]} for i in order]
        name = "score" if path in (PATHS["vllm-score"], PATHS["vllm-generate"]) else "relevance_score"
        rows = [{"index": i, name: 1 / (1 + math.exp(-odds[i]))} for i in order]
        return {"results" if path in (PATHS["cohere"], PATHS["jina"]) else "data": rows, **usage}

    def _texts(self, path: str, body: dict[str, Any]) -> tuple[str, list[str]]:
        if path == PATHS["chat"]:
            return parse_message(body["messages"][1]["content"])
        if path == PATHS["vllm-generate"]:
            pairs = [parse_message((item + body["query"]).split("<user>")[1]) for item in body["items"]]
            return pairs[0][0], [document for _, (document,) in pairs]
        names = {PATHS["tei"]: ("query", "texts"), PATHS["vllm-score"]: ("text_1", "text_2")}
        query, documents = names.get(path, ("query", "documents"))
        return body[query], body[documents]

    def _handler(stub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # head and body in one packet: the second would wait for the first to be acknowledged

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    stub.requests.append((self.path, dict(self.headers), body))
                    stub.times.append(time.monotonic())
                    reply = stub.replies.pop(0) if stub.replies else None
                    stub.active += 1
                    stub.at_once = max(stub.at_once, stub.active)
                stub.on_request(self.client_address)
                time.sleep(stub.delay)
                with stub.lock:
                    stub.active -= 1
                    status, headers, answer = reply or (200, {}, stub.answer(self.path, body))
                if status == 0:  # hang up
                    self.close_connection = True
                    return
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def parse_message(text: str) -> tuple[str, list[str]]:
    """Returns the texts in a chat's question."""
    document, query = text.removeprefix("Document: ").split("\nQuery: ")
    return query.split("\n")[0], [document]


def top_logprobs(odds: float, mass: float = 0.9) -> list[dict[str, Any]]:
    yes = 1 / (1 + math.exp(-odds))
    listed = {"Yes": mass * yes, "No": mass * (1 - yes), "Maybe": (1 - mass) / 2}
    return [{"token": token, "logprob": math.log(p)} for token, p in listed.items()]
