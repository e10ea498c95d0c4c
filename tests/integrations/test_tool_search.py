"""The shapes are checked by the clients' own types, and sent and answered through the clients themselves."""

import asyncio
import json

import pytest
from integrations.conftest import QUERY, WORDS, described
from pydantic import TypeAdapter

from rabtriever import Index, InputError
from rabtriever.integrations.tool_search import (
    SEARCH_TOOL,
    anthropic_tool_result,
    anthropic_tools,
    openai_search_output,
    openai_search_tool,
    retrieve_tools_function,
    tool_documents,
)

OPENAI_TOOLS = [described(name) for name in WORDS]
ANTHROPIC_TOOLS = [
    {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
    for tool in OPENAI_TOOLS
]


def test_every_shape_of_a_tool_is_the_same_document():
    mcp = [{"name": t["name"], "description": t["description"], "inputSchema": t["parameters"]} for t in OPENAI_TOOLS]
    chat = [{"type": "function", "function": {k: v for k, v in t.items() if k != "type"}} for t in OPENAI_TOOLS]
    expected = tool_documents(mcp)
    assert expected == tool_documents(chat) == tool_documents(OPENAI_TOOLS) == tool_documents(ANTHROPIC_TOOLS)
    assert [one.id for one in expected] == WORDS
    assert expected[0].content == "weather: find the weather\nParameters: place (where the weather is)"


def test_a_tool_without_a_name_is_told():
    with pytest.raises(InputError, match="tools, tool 1: .* has no name"):
        tool_documents([{"type": "web_search"}])


def test_anthropics_types_take_the_tools():
    types = pytest.importorskip("anthropic").types
    tools = anthropic_tools(ANTHROPIC_TOOLS, loaded=["lamp"])
    assert TypeAdapter(list[types.ToolParam]).validate_python(tools) == tools
    loaded = [tool["name"] for tool in tools if not tool.get("defer_loading")]
    assert loaded == [SEARCH_TOOL, "lamp"] and [tool["name"] for tool in tools[1:]] == WORDS


def test_an_answer_to_anthropic_refers_to_the_tools_of_a_search(tool_index):
    types = pytest.importorskip("anthropic").types
    block = types.ToolUseBlock(id="toolu_1", name=SEARCH_TOOL, input={"request": QUERY}, type="tool_use")
    answer = anthropic_tool_result(tool_index, block, 4)
    assert TypeAdapter(types.ToolResultBlockParam).validate_python(answer)
    assert {one["type"] for one in answer["content"]} == {"tool_reference"}
    expected = [hit.id for hit in tool_index.search(QUERY, 4)]
    assert [one["tool_name"] for one in answer["content"]] == expected
    assert anthropic_tool_result(tool_index, block.model_dump(), 4) == answer
    reranked = anthropic_tool_result(tool_index, block, 4, rerank=6)["content"]
    assert [one["tool_name"] for one in reranked] == [h.id for h in tool_index.search(QUERY, 4, rerank=6)]


def test_no_fit_and_a_wrong_call_are_answers_to_anthropic(tool_index):
    types = pytest.importorskip("anthropic").types
    call = {"id": "1", "input": {"request": QUERY}}
    nothing = anthropic_tool_result(tool_index, call, threshold=1.0)
    assert nothing["content"] == "No tool fits." and TypeAdapter(types.ToolResultBlockParam).validate_python(nothing)
    for wrong, fault in (({"goal": "x"}, "no request"), (None, "no request"), ({"request": " "}, "no tokens")):
        answer = anthropic_tool_result(tool_index, {"id": "1", "input": wrong})
        assert answer["is_error"] and fault in answer["content"]


def test_a_refusal_names_what_came_closest(tiny_retriever, tool_index, monkeypatch):
    from rabtriever.scoring.refusal import Refusal

    monkeypatch.setattr(Refusal, "limit", lambda *_: 1e9)
    closest = tool_index.search(QUERY, 1)[0].id
    answer = anthropic_tool_result(tool_index, {"id": "1", "input": {"request": QUERY}}, refuse=0.05)
    assert answer["content"] == f"No tool fits. The closest is {closest}."


@pytest.mark.parametrize("arguments", [{"request": QUERY}, json.dumps({"request": QUERY})])
def test_an_answer_to_openai_holds_the_tools_of_a_search(tool_index, arguments):
    responses = pytest.importorskip("openai").types.responses
    assert responses.ToolSearchTool.model_validate(openai_search_tool()).execution == "client"
    call = {
        "id": "tsc_1",
        "call_id": "call_1",
        "execution": "client",
        "status": "completed",
        "type": "tool_search_call",
    }
    call = responses.ResponseToolSearchCall(arguments=arguments, **call)
    answer = openai_search_output(tool_index, OPENAI_TOOLS, call, 4)
    assert TypeAdapter(responses.ResponseToolSearchOutputItemParamParam).validate_python(answer)
    responses.ResponseToolSearchOutputItem.model_validate({"id": "1", **answer})
    assert (answer["call_id"], answer["type"], answer["execution"]) == ("call_1", "tool_search_output", "client")
    found = {tool["name"]: tool for tool in answer["tools"]}
    assert list(found) == [hit.id for hit in tool_index.search(QUERY, 4)]
    assert all(tool == {**described(name), "defer_loading": True} for name, tool in found.items())
    assert openai_search_output(tool_index, OPENAI_TOOLS, call, threshold=1.0)["tools"] == []
    some = openai_search_output(tool_index, OPENAI_TOOLS[:2], call, len(WORDS))["tools"]
    assert sorted(tool["name"] for tool in some) == sorted(WORDS[:2])
    with pytest.raises(InputError, match="no request"):
        openai_search_output(tool_index, OPENAI_TOOLS, {"call_id": "1", "arguments": "{"})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_agent_of_langgraph_bigtool(tiny_retriever, asynchronous, monkeypatch):
    bigtool = pytest.importorskip("langgraph_bigtool")
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langchain_core.tools import StructuredTool
    from langgraph.prebuilt import ToolNode

    from rabtriever.integrations.langchain import tool_documents as documents_of

    # bigtool 0.0.3 calls this method, which langgraph 1.1 made private, before it calls a tool that was found.
    monkeypatch.setattr(ToolNode, "inject_tool_args", lambda self, call, *_: call, raising=False)
    registry = {
        name: StructuredTool.from_function(
            lambda place, name=name: f"{name} in {place}", name=name, description=f"find the {name}"
        )
        for name in WORDS
    }
    index = Index.build(None, tiny_retriever, documents_of(registry.values()))
    expected, seen = [hit.id for hit in index.search(QUERY, 3)], []

    class Scripted(GenericFakeChatModel):
        def bind_tools(self, tools, **_):
            seen.append([tool.name for tool in tools])
            return self

    calls = [{"name": SEARCH_TOOL, "args": {"request": QUERY}, "id": "1"}]
    calls += [{"name": expected[0], "args": {"place": "city"}, "id": "2"}]
    answers = iter([*(AIMessage("", tool_calls=[call]) for call in calls), AIMessage("done")])
    agent = bigtool.create_agent(
        Scripted(messages=answers), registry, retrieve_tools_function=retrieve_tools_function(index, 3)
    ).compile()
    state = {"messages": [("user", QUERY)]}
    result = asyncio.run(agent.ainvoke(state)) if asynchronous else agent.invoke(state)
    assert seen == [[SEARCH_TOOL], [SEARCH_TOOL, *expected], [SEARCH_TOOL, *expected]]
    assert result["selected_tool_ids"] == expected
    said = [message.content for message in result["messages"] if isinstance(message, ToolMessage)]
    assert said[0] == f"Available tools: {expected}" and said[1] == f"{expected[0]} in city"


def test_a_description_that_is_no_text_is_told():
    with pytest.raises(InputError, match="tool 2: description of 'b' is 5"):
        tool_documents([{"name": "a"}, {"name": "b", "description": 5}])


def test_a_schema_that_is_null_hides_no_other():
    tool = {"name": "a", "inputSchema": None, "parameters": {"properties": {"place": {}}}}
    assert tool_documents([tool])[0].text == "Parameters: place"
