import asyncio

import pytest
from integrations.conftest import QUERY, TEXTS, WORDS
from llama_index.core import Settings
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

from rabtriever import Index, InputError
from rabtriever.integrations.llama_index import (
    RabtrieverRerank,
    RabtrieverRetriever,
    tool_documents,
    tool_retriever,
)


@pytest.mark.parametrize("options", [{}, {"where": "json_get_bool(metadata, 'even')"}, {"rerank": 4}], ids=str)
def test_a_retriever_returns_what_a_search_does(index, options):
    retriever, hits = RabtrieverRetriever(index, 6, **options), index.search(QUERY, 6, **options)
    found = retriever.retrieve(QUERY)
    assert [(one.node_id, one.score, one.text) for one in found] == [(h.id, h.probability, h.text) for h in hits]
    assert [one.metadata for one in found] == [{**hit.metadata, "log_odds": hit.log_odds} for hit in hits]
    again = asyncio.run(retriever.aretrieve(QUERY))
    assert [(one.node_id, one.score) for one in again] == [(one.node_id, one.score) for one in found]
    assert "log_odds" not in found[0].node.get_content(MetadataMode.LLM)


@pytest.mark.parametrize("top_n", [None, 3])
def test_a_postprocessor_ranks_as_the_ranker(ranker, top_n):
    nodes = [
        NodeWithScore(node=TextNode(id_=str(i), text=text, metadata={"n": i})) for i, text in enumerate(TEXTS[:12])
    ]
    postprocessor = RabtrieverRerank(ranker=ranker, top_n=top_n)
    expected = [(str(row["corpus_id"]), row["score"]) for row in ranker.rank(QUERY, TEXTS[:12], top_n)]
    found = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    assert [(one.node_id, one.score) for one in found] == expected
    again = asyncio.run(postprocessor.apostprocess_nodes(nodes, query_str=QUERY))
    assert [(one.node_id, one.score) for one in again] == expected
    assert postprocessor.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(InputError, match="without a query"):
        postprocessor.postprocess_nodes(nodes)


def test_a_query_engine_of_both(index, ranker, monkeypatch):
    monkeypatch.setattr(Settings, "_llm", MockFunctionCallingLLM())
    engine = RetrieverQueryEngine.from_args(
        RabtrieverRetriever(index, 8),
        response_mode="no_text",
        node_postprocessors=[RabtrieverRerank(ranker=ranker, top_n=3)],
    )
    hits = index.search(QUERY, 8)
    expected = [hits[row["corpus_id"]].id for row in ranker.rank(QUERY, [hit.text for hit in hits], 3)]
    assert [one.node_id for one in engine.query(QUERY).source_nodes] == expected


@pytest.fixture(scope="module")
def tools():
    def make(name):
        return FunctionTool.from_defaults(lambda place: f"{name} in {place}", name=name, description=f"find the {name}")

    return [make(name) for name in WORDS]


@pytest.fixture(scope="module")
def tools_index(tools, tiny_retriever):
    return Index.build(None, tiny_retriever, tool_documents(tools))


def test_a_tool_retriever_gets_the_best_tools(tools, tools_index):
    retriever = tool_retriever(tools_index, tools[2:], 4)
    expected = [hit.id for hit in tools_index.search(QUERY, 4, where=f"id NOT IN ('{WORDS[0]}', '{WORDS[1]}')")]
    assert [tool.metadata.name for tool in retriever.retrieve(QUERY)] == expected
    assert [tool.metadata.name for tool in asyncio.run(retriever.aretrieve(QUERY))] == expected


@pytest.mark.parametrize("workflow", [False, True])
def test_an_agent_sees_these_tools_and_calls_one(tools, tools_index, workflow):
    from llama_index.core.base.llms.types import ToolCallBlock

    expected, seen = [hit.id for hit in tools_index.search(QUERY, 4)], []

    def answer(messages, tools=(), **_):
        seen.append([tool.metadata.name for tool in tools])
        if len(seen) > 1:
            return ChatMessage(role="assistant", content=str(messages[-1].content))
        call = ToolCallBlock(tool_call_id="1", tool_name=expected[0], tool_kwargs={"place": "city"})
        return ChatMessage(role="assistant", blocks=[call])

    llm = MockFunctionCallingLLM(response_generator=answer, is_chat_model=True)
    agent = FunctionAgent(llm=llm, name="one", tool_retriever=tool_retriever(tools_index, tools, 4), streaming=False)
    runs = AgentWorkflow(agents=[agent]) if workflow else agent

    async def run():
        return await runs.run(user_msg=QUERY)

    result = asyncio.run(run())
    assert seen[0] == expected
    assert f"{expected[0]} in city" in str(result)
