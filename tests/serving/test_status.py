import re

import pytest
from serving.conftest import DOCUMENTS

from rabtriever.serving import app as module
from rabtriever.serving.config import ServerConfig


def test_info_describes_what_is_served(standing):
    info, retriever = standing.http.get("/info").json(), standing.index.retriever
    assert info["model"]["fingerprint"] == retriever.fingerprint and info["model"]["dimensions"] == retriever.dim
    assert len(info["prompt"]["hash"]) == 64 and info["prompt"]["query_tokens"] == 24
    choices = [info["prompt"]["choices"][name] for name in ("yes", "no")]
    assert tuple(choice["id"] for choice in choices) == retriever.reranker.llm.prompt.choice_ids
    assert [choice["text"] for choice in choices] == [" yes", " no"]
    assert info["limits"]["searches"] == 128 and info["index"]["documents"] == len(DOCUMENTS)


def test_metrics_count_requests_stages_batches_and_tokens(live):
    live.post("/v1/search", query="show the weather", rerank=1)
    live.post("/v1/search", query="")
    live.post("/v1/documents", documents=[{"id": "new", "text": "rain"}])
    text = live.http.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['rabtriever_requests_total{method="POST",route="/v1/search",status="200"}'] == "1.0"
    assert values['rabtriever_requests_total{method="POST",route="/v1/search",status="422"}'] == "1.0"
    for stage in ("queue", "encode", "scan", "rerank", "write"):
        assert float(values[f'rabtriever_stage_seconds_count{{stage="{stage}"}}']) == 1
    assert values['rabtriever_queue{kind="search"}'] == "0.0" and values["rabtriever_query_batch_size_sum"] == "1.0"
    assert float(values['rabtriever_tokens_total{side="query"}']) > 0
    assert float(values['rabtriever_tokens_total{side="document"}']) > 0


def test_the_page_and_the_documentation_need_nothing_from_elsewhere(standing):
    page = standing.http.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for text in (page.text, standing.http.get("/docs").text):
        found = re.findall(r'(?:src|href)="([^"]+)"', text)
        assert found and not [link for link in found if "//" in link]
        for link in found:
            assert standing.http.get(link).status_code == 200


def test_nothing_is_ready_before_the_model_is(index, monkeypatch):
    import httpx
    from serving.conftest import threading

    gate = threading.Event()
    monkeypatch.setattr(module, "open_index", lambda config: gate.wait(10) and index)
    app = module.make_app(ServerConfig(uri=index.table.uri), failed=pytest.fail)

    async def ask():
        import asyncio

        inner = app.app
        async with (
            inner.router.lifespan_context(inner),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http,
        ):
            assert (await http.get("/health")).status_code == 200
            answer = await http.get("/ready")
            assert answer.status_code == 503 and answer.headers["Retry-After"] == "2"
            assert (await http.post("/v1/search", json={"query": "a"})).status_code == 503
            gate.set()
            while (await http.get("/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        return await httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost").get("/ready")

    import asyncio

    assert asyncio.run(ask()).status_code == 503  # it was shut down


PATHS = "/ /health /ready /info /metrics /docs /openapi.json /page/page.css /v1/documents/lamp".split()


@pytest.mark.parametrize("path", PATHS)
def test_what_can_be_got_has_a_head(standing, path):
    """Uptime monitors and load balancers send it."""
    got, head = standing.http.get(path), standing.http.head(path)
    assert head.status_code == got.status_code == 200 and not head.content
    assert head.headers["content-type"] == got.headers["content-type"] and "content-length" in head.headers


def test_a_head_of_nothing_says_so_and_is_counted(standing):
    assert standing.http.head("/v1/documents/nobody").status_code == 404
    assert standing.http.head("/v1/search").status_code == 405
    standing.http.head("/health")
    assert 'method="HEAD",route="/health"' in standing.http.get("/metrics").text
