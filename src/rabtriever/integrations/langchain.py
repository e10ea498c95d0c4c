"""LangChain: an index as a retriever, a ranking as a document compressor, a tool selector for agents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from typing import Any

from typing_extensions import Unpack

from rabtriever import data
from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.index import Hit, Index
from rabtriever.index.search import SearchKeywords
from rabtriever.integrations import tool_search
from rabtriever.integrations.tool_search import where_among

with needs("langchain"):
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import BaseTool
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from pydantic import ConfigDict


class RabtrieverRetriever(BaseRetriever):
    """An index as a retriever; further options of a search, such as ``history``, are keywords of ``invoke``.

    Documents have the metadata that they were added with and ``relevance_score`` (the probability), ``log_odds`` (the
    ranking key) and ``id``.

    Attributes:
        index: What is searched.
        k: Documents, at most.
        where: See :class:`rabtriever.SearchOptions`, as ``mode``, ``rerank``, ``threshold`` and ``refuse``.
        mode: See there.
        rerank: See there.
        threshold: See there.
        refuse: See there.
        reranker: Scores the best ``rerank`` documents; the retriever's own if None.
    """

    index: Index
    k: int = 10
    where: str | None = None
    mode: str = "auto"
    rerank: int | None = None
    threshold: float | None = None
    refuse: float | None = None
    reranker: Any = None

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        **options: Any,  # noqa: ANN401
    ) -> list[Document]:
        names = ("k", "where", "mode", "rerank", "threshold", "refuse", "reranker")
        hits = self.index.search(query, **{name: getattr(self, name) for name in names} | options)
        return [_document(hit) for hit in hits]


def _document(hit: Hit) -> Document:
    ours = {"relevance_score": hit.probability, "log_odds": hit.log_odds, "id": hit.id}
    return Document(hit.text, id=hit.id, metadata={**hit.metadata, **ours})


class RabtrieverRerank(BaseDocumentCompressor):
    """Orders documents by a reranker, or by a retriever alone, which reads no pairs and is fast.

    Documents get the metadata ``relevance_score``, the probability.

    Attributes:
        ranker: :func:`rabtriever.load_reranker`, or a :class:`rabtriever.Rabtriever`.
        top_n: Documents that are kept, at most; None: all.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    ranker: Any
    top_n: int | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Returns the best documents, best first."""
        texts = [document.page_content for document in documents]
        ranked = self.ranker.rank(query, texts, self.top_n) if documents else []
        return [_with_score(documents[row["corpus_id"]], row["score"]) for row in ranked]


def _with_score(document: Document, score: float) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})


class RabtrieverToolSelectorMiddleware(AgentMiddleware):
    """Shows the model, at each call, the tools that are best for the user's last message.

    They come first, best first; then those that are always there: named in ``always_include``, unknown to the index,
    or run by the provider. All of the agent's tools can still be called.

    Args:
        index: Of the agent's tools (:func:`tool_documents`), and of others, if you like.
        k: Tools that are chosen, at most.
        always_include: Names of tools that are always there.
        **options: Of :meth:`rabtriever.Index.search`. With ``threshold`` or ``refuse`` the model may see no tool of the
            index.
    """

    def __init__(
        self,
        index: Index,
        k: int = 8,
        always_include: Iterable[str] = (),
        **options: Unpack[SearchKeywords],
    ) -> None:
        super().__init__()
        self.index, self.k, self.always_include, self.options = index, k, set(always_include), options
        self._indexed: tuple[object, set[str], str | None] = (None, set(), None)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | AIMessage:
        """Calls the model with fewer tools; raises InputError if the agent lacks one of ``always_include``."""
        return handler(self.narrow(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | AIMessage:
        """The same; the search runs in a thread."""
        return await handler(await asyncio.to_thread(self.narrow, request))

    def narrow(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Returns the request with the tools that the model sees; as it is if the user said nothing."""
        said = next((str(one.text) for one in reversed(request.messages) if isinstance(one, HumanMessage)), "")
        named = {tool.name: tool for tool in request.tools if not isinstance(tool, dict)}
        if missing := sorted(self.always_include - named.keys()):
            raise InputError(f"always_include {missing[0]!r}: the agent has no such tool; correct the name")
        if not said.strip():
            return request
        among, where = self._indexed_among(named.keys() - self.always_include)
        options: SearchKeywords = {**self.options, "where": where}
        hits = self.index.search(said, self.k, **options) if among else []
        others = [tool for tool in request.tools if isinstance(tool, dict) or tool.name not in among]
        return request.override(tools=[*(named[hit.id] for hit in hits), *others])

    def _indexed_among(self, names: Set[str]) -> tuple[set[str], str | None]:
        """Returns which of the names the index holds, and the condition of a search among them.

        That is looked up again when the names or the index change: over 5,000 tools it takes longer than a search.
        """
        key = (frozenset(names), self.index.table.version)
        known, among, condition = self._indexed  # once: another thread may have other names
        if known != key:
            among = {document.id for document in self.index.get(sorted(names))}
            where = self.options.get("where")
            condition = where if len(among) == len(self.index) else where_among(among, where)
            self._indexed = (key, among, condition)
        return among, condition


def tool_documents(tools: Iterable[BaseTool | Callable[..., Any]]) -> list[data.Document]:
    """Returns what to index of LangChain's tools; see :func:`rabtriever.integrations.tool_search.tool_documents`."""
    return tool_search.tool_documents(convert_to_openai_tool(tool) for tool in tools)
