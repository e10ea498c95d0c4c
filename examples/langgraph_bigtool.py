"""langgraph-bigtool: an agent that searches its eight tools by itself."""

from home import FUNCTIONS
from langchain_core.tools import tool
from langgraph.prebuilt import ToolNode
from langgraph_bigtool import create_agent
from scripted import ScriptedModel

from rabtriever import Index, Rabtriever
from rabtriever.integrations.langchain import tool_documents
from rabtriever.integrations.tool_search import retrieve_tools_function

if not hasattr(ToolNode, "inject_tool_args"):  # bigtool 0.0.3 calls it, langgraph 1.1 has it no more
    ToolNode.inject_tool_args = lambda self, call, *_: call

registry = {function.__name__: tool(function) for function in FUNCTIONS}
index = Index.build(None, Rabtriever.from_pretrained("tools"), tool_documents(registry.values()))
model = ScriptedModel()  # or init_chat_model("anthropic:claude-sonnet-5")
agent = create_agent(model, registry, retrieve_tools_function=retrieve_tools_function(index, k=3)).compile()
for message in agent.invoke({"messages": [("user", "I knocked my soda over in the kitchen")]})["messages"]:
    print(f"{message.type}: {message.text}")
