import asyncio

import pytest
from integrations.conftest import QUERY, TEXTS, WORDS
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool

from rabtriever import Index, InputError
from rabtriever.integrations.langchain import (
    RabtrieverRerank,
    RabtrieverRetriever,
    RabtrieverToolSelectorMiddleware,
    tool_documents,
)


@pytest.mark.parametrize(
    "options",
    [{"k": 5}, {"k": 40, "where": "json_get_bool(metadata, 'even')"}, {"k": 6, "rerank": 4}, {"threshold": 0.05}],
    ids=str,
)
def test_a_retriever_returns_what_a_search_does(index, options):
    retriever, hits = RabtrieverRetriever(index=index, **options), index.search(QUERY, **options)
    found = retriever.invoke(QUERY)
    assert [one.id for one in found] == [hit.id for hit in hits] != []
    for one, hit in zip(found, hits, strict=True):
        scores = {"relevance_score": hit.probability, "log_odds": hit.log_odds, "id": hit.id}
        assert (one.page_content, one.metadata) == (hit.text, {**hit.metadata, **scores})
    assert asyncio.run(retriever.ainvoke(QUERY)) == found
    assert retriever.batch([QUERY, "bread"])[0] == found


def test_options_of_one_call(index):
    retriever = RabtrieverRetriever(index=index, k=5)
    hits = index.search(QUERY, 3, history=["the rain"])
    assert [one.id for one in retriever.invoke(QUERY, k=3, history=["the rain"])] == [hit.id for hit in hits]
    with pytest.raises(InputError, match="k 0"):
        retriever.invoke(QUERY, k=0)


@pytest.mark.parametrize("top_n", [None, 3])
def test_a_compressor_ranks_as_the_ranker(ranker, top_n):
    documents = [Document(text, id=str(i), metadata={"n": i}) for i, text in enumerate(TEXTS[:12])]
    compressor = RabtrieverRerank(ranker=ranker, top_n=top_n)
    expected = ranker.rank(QUERY, TEXTS[:12], top_n)
    found = compressor.compress_documents(documents, QUERY)
    assert [(int(one.id), one.metadata) for one in found] == [
        (row["corpus_id"], {"n": row["corpus_id"], "relevance_score": row["score"]}) for row in expected
    ]
    assert asyncio.run(compressor.acompress_documents(documents, QUERY)) == found
    assert "relevance_score" not in documents[0].metadata
    assert compressor.compress_documents([], QUERY) == []


class Seeing(GenericFakeChatModel):
    """A model that writes down which tools it sees."""

    seen: list = []

    def bind_tools(self, tools, **_):
        self.seen.append([one["type"] if isinstance(one, dict) else one.name for one in tools])
        return self


def function_tool(name):
    return StructuredTool.from_function(lambda place: f"{name} in {place}", name=name, description=f"find the {name}")


@pytest.fixture(scope="module")
def tools():
    return [function_tool(name) for name in WORDS]


@pytest.fixture(scope="module")
def tools_index(tools, tiny_retriever):
    return Index.build(None, tiny_retriever, tool_documents([*tools, function_tool("elsewhere")]))


def run_agent(middleware, tools, messages, answers=("done",), asynchronous=False):
    model = Seeing(messages=iter(one if isinstance(one, AIMessage) else AIMessage(one) for one in answers), seen=[])
    agent = create_agent(model, tools, middleware=[middleware])
    state = {"messages": messages}
    result = asyncio.run(agent.ainvoke(state)) if asynchronous else agent.invoke(state)
    return model.seen, result["messages"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_model_sees_the_best_tools_for_the_last_message(tools, tools_index, asynchronous):
    middleware = RabtrieverToolSelectorMiddleware(tools_index, k=4, always_include=["music"])
    messages = [HumanMessage("bread"), AIMessage("which?"), HumanMessage([{"type": "text", "text": QUERY}])]
    seen, _ = run_agent(middleware, tools, messages, asynchronous=asynchronous)
    expected = tools_index.search(QUERY, 4, where="id NOT IN ('music', 'elsewhere')")
    assert seen == [[*(hit.id for hit in expected), "music"]]


def test_a_chosen_tool_is_called_and_the_choice_stays(tools, tools_index):
    middleware = RabtrieverToolSelectorMiddleware(tools_index, k=3, rerank=5)
    best = [hit.id for hit in tools_index.search(QUERY, 3, where="id <> 'elsewhere'", rerank=5)]
    call = AIMessage("", tool_calls=[{"name": best[0], "args": {"place": "city"}, "id": "1"}])
    seen, messages = run_agent(middleware, tools, [HumanMessage(QUERY)], (call, "done"))
    assert seen == [best, best]
    assert messages[-2].content == f"{best[0]} in city"


def test_what_the_index_lacks_stays(tools, tools_index):
    unknown, provider = function_tool("write_todos"), {"type": "web_search"}
    middleware = RabtrieverToolSelectorMiddleware(tools_index, k=1, threshold=1.0)
    seen, _ = run_agent(middleware, [*tools, unknown, provider], [HumanMessage(QUERY)])
    assert seen == [["write_todos", "web_search"]]
    seen, _ = run_agent(middleware, tools, [HumanMessage(" ")])
    assert seen == [WORDS]


def test_a_condition_and_a_changing_index(tools, tiny_retriever):
    index = Index.build(None, tiny_retriever, tool_documents(tools))
    middleware = RabtrieverToolSelectorMiddleware(index, k=20, where="id <> 'bread'")

    def seen():
        return run_agent(middleware, tools, [HumanMessage(QUERY)])[0][0]

    assert seen() == [hit.id for hit in index.search(QUERY, 20, where="id <> 'bread'")]
    index.delete(["lamp", "song"])  # then they are unknown to the index, and stay
    assert seen() == [*(hit.id for hit in index.search(QUERY, 20, where="id <> 'bread'")), "song", "lamp"]
    index.add(tool_documents([function_tool("elsewhere")]))
    where = "id NOT IN ('bread', 'elsewhere')"
    assert seen() == [*(hit.id for hit in index.search(QUERY, 20, where=where)), "song", "lamp"]


def test_a_wrong_name_is_told(tools, tools_index):
    middleware = RabtrieverToolSelectorMiddleware(tools_index, always_include=["musik"])
    with pytest.raises(InputError, match="always_include 'musik'"):
        run_agent(middleware, tools, [HumanMessage(QUERY)])


def test_a_search_keeps_its_own_names_when_another_thread_asks_for_others(tools, tiny_retriever):
    class Interrupted(RabtrieverToolSelectorMiddleware):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "_indexed" and "lamp" in value[1]:
                self._indexed_among({"music"})  # as another thread may at this moment

    middleware = Interrupted(Index.build(None, tiny_retriever, tool_documents(tools)))
    among, where = middleware._indexed_among({"weather", "lamp"})
    assert among == {"weather", "lamp"} and "music" not in str(where)
