import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from rabtriever.data import Document
from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.mcp.documents import DocumentServer
from rabtriever.mcp.reranking import search_index

DOCUMENTS = [Document(name, f"find the {name}", metadata={"n": n}) for n, name in enumerate(("rain", "lamp", "city"))]


def test_an_index_as_one_tool(retriever):
    index = Index.build(None, retriever, DOCUMENTS)

    async def main():
        async with Client(DocumentServer(index).server) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["search_documents"]
            result = await client.call_tool("search_documents", {"query": "the lamp", "k": 2})
            hits = index.search("the lamp", 2)
            found = result.structured_content
            assert found["total"] == 3 and [one["id"] for one in found["documents"]] == [hit.id for hit in hits]
            assert found["documents"][0] == {
                "id": hits[0].id,
                "text": hits[0].text,
                "probability": pytest.approx(hits[0].probability, abs=1e-4),
                "metadata": hits[0].metadata,
            }
            assert "2 of 3 documents" in result.content[0].text and hits[1].text in result.content[0].text
            blank = await client.call_tool("search_documents", {"query": ""})
            assert blank.is_error and "query is ''" in blank.content[0].text
            with pytest.raises(MCPError, match="no tool 'x'"):
                await client.call_tool("x")

    anyio.run(main)


def test_a_reranker_that_fails_is_left_out(retriever, monkeypatch, caplog):
    index = Index.build(None, retriever, DOCUMENTS)

    def fail(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(retriever.reranker, "score", fail)

    async def main():
        return await DocumentServer(index, rerank=2).search_documents("the lamp", 3)

    found = anyio.run(main).structured_content["documents"]
    assert [one["id"] for one in found] == [hit.id for hit in index.search("the lamp", 3)]
    assert "the reranker failed" in caplog.text


def test_a_bad_query_is_not_the_rerankers_fault(retriever, caplog):
    index = Index.build(None, retriever, DOCUMENTS)

    with pytest.raises(InputError, match="half of a surrogate pair"):
        search_index(index, "half \ud83d", 3, 2)
    assert "the reranker failed" not in caplog.text
