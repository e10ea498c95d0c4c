"""LlamaIndex: search, rerank what was found, and an agent that sees three of its eight tools."""

import asyncio

from home import FUNCTIONS
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool

from rabtriever import Index, Rabtriever
from rabtriever.integrations.llama_index import RabtrieverRerank, RabtrieverRetriever, tool_documents, tool_retriever

REQUEST = "I knocked my soda over in the kitchen"


def scripted(messages, tools=(), **_):
    """Stands for an LLM: calls the first tool that it sees, then repeats what that said."""
    if messages[-1].role == "tool":
        return ChatMessage(role="assistant", content=messages[-1].content)
    names = [tool.metadata.name for tool in tools]
    print("the model sees:", ", ".join(names))
    call = ToolCallBlock(tool_call_id="1", tool_name=names[0], tool_kwargs={"room": "kitchen"})
    return ChatMessage(role="assistant", blocks=[call])


retriever = Rabtriever.from_pretrained("tools")
tools = [FunctionTool.from_defaults(function) for function in FUNCTIONS]
index = Index.build(None, retriever, tool_documents(tools))

nodes = RabtrieverRetriever(index, similarity_top_k=5).retrieve(REQUEST)
for node in RabtrieverRerank(ranker=retriever.reranker, top_n=2).postprocess_nodes(nodes, query_str=REQUEST):
    print(f"{node.score:.0%} {node.text}")

llm = MockFunctionCallingLLM(response_generator=scripted, is_chat_model=True)
agent = FunctionAgent(llm=llm, tool_retriever=tool_retriever(index, tools, 3), streaming=False)


async def main():
    print(await agent.run(user_msg=REQUEST))


asyncio.run(main())
