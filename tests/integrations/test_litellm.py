"""LiteLLM as a remote teacher: what its proxy answers is what its library returns, in shapes that we read already.

The proxy itself needs versions of libraries that others here do not work with: install ``litellm[proxy]`` in an
environment of its own and name its ``litellm`` in RABTRIEVER_LITELLM to test against it.
"""

import json
import os
import socket
import subprocess
import time

import httpx
import numpy as np
import pytest
from stub_teacher import DOCUMENTS, KEY, QUERIES, StubTeacher, log_odds_of, top_logprobs

from rabtriever.errors import RemoteError
from rabtriever.rerankers.remote.prompts import ChatPrompt
from rabtriever.rerankers.remote.protocols import PROTOCOLS, read_answer
from rabtriever.rerankers.remote.reranker import RemoteReranker

PAIRS = np.array([(q, d) for q in range(len(QUERIES)) for d in range(len(DOCUMENTS))])
EXPECTED = [log_odds_of(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS]


@pytest.fixture
def provider(monkeypatch, tmp_path):
    """Stands for a provider that LiteLLM asks."""
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path))
    made = StubTeacher()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def litellm():
    return pytest.importorskip("litellm")


@pytest.mark.parametrize(("name", "path"), [("cohere", "/v2/rerank"), ("jina_ai", "/v1/rerank")])
def test_its_rerank_answers_in_coheres_shape(provider, litellm, name, path):
    asked = {"query": QUERIES[0], "documents": DOCUMENTS, "api_key": "none", "return_documents": False}
    answer = litellm.rerank(f"{name}/tiny", api_base=provider.address + path, **asked)
    read = read_answer(PROTOCOLS["cohere"], json.loads(answer.model_dump_json()), len(DOCUMENTS), raw_scores=False)
    assert read.scores == pytest.approx([log_odds_of(QUERIES[0], text) for text in DOCUMENTS], abs=1e-6)


def test_its_completion_answers_in_openais_shape(provider, litellm):
    protocol = PROTOCOLS["chat"]
    prompt = ChatPrompt("You judge whether a document answers a query.", "Document", "Query")
    body = protocol.request("openai/tiny", QUERIES[0], DOCUMENTS[:1], prompt)
    provider.replies.append((200, {}, openai_answer(log_odds_of(QUERIES[0], DOCUMENTS[0]))))
    answer = litellm.completion(api_base=f"{provider.address}/v1", api_key="none", **body)
    _, _, sent = provider.requests[-1]
    assert {name: sent[name] for name in ("messages", "logprobs", "top_logprobs")} == {
        name: body[name] for name in ("messages", "logprobs", "top_logprobs")
    }
    read = read_answer(protocol, json.loads(answer.model_dump_json()), 1, raw_scores=False)
    assert read.scores == pytest.approx([log_odds_of(QUERIES[0], DOCUMENTS[0])], abs=1e-6)


def openai_answer(odds):
    """The whole of a chat completion, as OpenAI's client checks it."""
    listed = [{**one, "bytes": None} for one in top_logprobs(odds)]
    content = [{"token": "Yes", "logprob": listed[0]["logprob"], "bytes": None, "top_logprobs": listed}]
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "Yes"}}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    shape = {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "usage": usage}
    return {**shape, "choices": [{**choice, "logprobs": {"content": content}}]}


@pytest.fixture
def proxy(provider, tmp_path):
    """The address of a real proxy before the provider."""
    executable = os.environ.get("RABTRIEVER_LITELLM")
    if not executable:
        pytest.skip("RABTRIEVER_LITELLM names no proxy")
    models = {
        "reranker": {"model": "cohere/tiny", "api_base": f"{provider.address}/v2/rerank", "api_key": "none"},
        "judge": {"model": "openai/tiny", "api_base": f"{provider.address}/v1", "api_key": "none"},
    }
    config = {
        "model_list": [{"model_name": name, "litellm_params": params} for name, params in models.items()],
        "general_settings": {"master_key": KEY},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [executable, "--config", str(tmp_path / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)],
        env=environment | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        cwd=tmp_path,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None
            try:
                if httpx.get(f"{address}/health/liveliness").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_a_real_proxy_teaches_by_rerank_and_by_chat(provider, proxy, monkeypatch):
    monkeypatch.setenv("RABTRIEVER_TEACHER_KEY", KEY)
    rerank = RemoteReranker.from_source(f"cohere+{proxy}/v2/rerank#reranker")
    np.testing.assert_allclose(rerank.score(QUERIES, DOCUMENTS, PAIRS).log_odds, EXPECTED, atol=1e-5)
    chat = RemoteReranker.from_source(f"chat+{proxy}/v1/chat/completions#judge", concurrency=1)
    provider.replies += [(200, {}, openai_answer(odds)) for odds in EXPECTED]
    np.testing.assert_allclose(chat.score(QUERIES, DOCUMENTS, PAIRS).log_odds, EXPECTED, atol=1e-5)
    assert chat.mass == pytest.approx(0.9)
    monkeypatch.setenv("RABTRIEVER_TEACHER_KEY", "wrong")
    refused = RemoteReranker.from_source(f"cohere+{proxy}/rerank#reranker")
    with pytest.raises(RemoteError, match="HTTP 4"):
        refused.score(QUERIES, DOCUMENTS, PAIRS)
