"""LangChain: search, rerank what was found, and an agent that sees three of its eight tools."""

from home import FUNCTIONS
from langchain.agents import create_agent
from scripted import ScriptedModel

from rabtriever import Index, Rabtriever
from rabtriever.integrations.langchain import (
    RabtrieverRerank,
    RabtrieverRetriever,
    RabtrieverToolSelectorMiddleware,
    tool_documents,
)

REQUEST = "I knocked my soda over in the kitchen"

retriever = Rabtriever.from_pretrained("tools")
index = Index.build(None, retriever, tool_documents(FUNCTIONS))

documents = RabtrieverRetriever(index=index, k=5).invoke(REQUEST)
for document in RabtrieverRerank(ranker=retriever.reranker, top_n=2).compress_documents(documents, REQUEST):
    print(f"{document.metadata['relevance_score']:.0%} {document.page_content}")

model = ScriptedModel()  # or init_chat_model("anthropic:claude-sonnet-5")
agent = create_agent(model, FUNCTIONS, middleware=[RabtrieverToolSelectorMiddleware(index, k=3)])
for message in agent.invoke({"messages": [("user", REQUEST)]})["messages"]:
    print(f"{message.type}: {message.text}")
