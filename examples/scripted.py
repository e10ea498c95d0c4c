"""Stands for a chat model in LangChain's examples, which need no network."""

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from rabtriever.integrations.tool_search import SEARCH_TOOL


class ScriptedModel(BaseChatModel):
    """Calls the first tool that it sees and is not the search, else the search; when that tool has answered, ends."""

    names: list[str] = []
    _llm_type = "scripted"

    def bind_tools(self, tools, **_):
        return ScriptedModel(names=[tool.name for tool in tools])

    def _generate(self, messages, stop=None, run_manager=None, **_):
        print("the model sees:", ", ".join(self.names))
        message = AIMessage("Done.")
        if messages[-1].name not in self.names:  # no tool has answered
            name = next((name for name in self.names if name != SEARCH_TOOL), SEARCH_TOOL)
            arguments = {"request": str(messages[-1].text)} if name == SEARCH_TOOL else {"room": "kitchen"}
            message = AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": str(len(messages))}])
        return ChatResult(generations=[ChatGeneration(message=message)])
