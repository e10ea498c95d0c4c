"""LlamaIndex: an index as a retriever, a ranking as a node postprocessor, a tool retriever for agents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import Unpack

from rabtriever import data
from rabtriever.errors import InputError
from rabtriever.extras import needs
from rabtriever.index import Index
from rabtriever.index.search import SearchKeywords
from rabtriever.integrations import tool_search
from rabtriever.integrations.tool_search import where_among

with needs("llama-index"):
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.objects import ObjectRetriever, SimpleToolNodeMapping
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.tools import BaseTool


class RabtrieverRetriever(BaseRetriever):
    """An index as a retriever. A node's score is the probability; its metadata have ``log_odds``, the ranking key.

    Args:
        index: What is searched.
        similarity_top_k: Nodes, at most.
        callback_manager: LlamaIndex's.
        **options: Of :meth:`rabtriever.Index.search`.
    """

    def __init__(
        self,
        index: Index,
        similarity_top_k: int = 10,
        callback_manager: CallbackManager | None = None,
        **options: Unpack[SearchKeywords],
    ) -> None:
        super().__init__(callback_manager)
        self.index, self.similarity_top_k, self.options = index, similarity_top_k, options

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self.index.search(query_bundle.query_str, self.similarity_top_k, **self.options)
        ours = ["log_odds"]  # no text of the document
        return [
            NodeWithScore(
                node=TextNode(
                    id_=hit.id,
                    text=hit.text,
                    metadata={**hit.metadata, "log_odds": hit.log_odds},
                    excluded_embed_metadata_keys=ours,
                    excluded_llm_metadata_keys=ours,
                ),
                score=hit.probability,
            )
            for hit in hits
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class RabtrieverRerank(BaseNodePostprocessor):
    """Orders nodes by a reranker, or by a retriever alone, which reads no pairs and is fast.

    It reads the nodes' texts, without metadata, and sets their scores to the probabilities.

    Attributes:
        ranker: :func:`rabtriever.load_reranker`, or a :class:`rabtriever.Rabtriever`.
        top_n: Nodes that are kept, at most; None: all.
    """

    ranker: Any = Field(exclude=True)
    top_n: int | None = None

    @classmethod
    def class_name(cls) -> str:
        """Returns the class's name, under which LlamaIndex saves it."""
        return "RabtrieverRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("nodes without a query cannot be ranked; give query_bundle or query_str")
        texts = [node.node.get_content(MetadataMode.NONE) for node in nodes]
        ranked = self.ranker.rank(query_bundle.query_str, texts, self.top_n) if nodes else []
        return [NodeWithScore(node=nodes[row["corpus_id"]].node, score=row["score"]) for row in ranked]


def tool_retriever(
    index: Index, tools: Sequence[BaseTool], similarity_top_k: int = 5, **options: Unpack[SearchKeywords]
) -> ObjectRetriever[BaseTool]:
    """Returns the ``tool_retriever`` of an agent: it gets the tools that are best for the user's message.

    Args:
        index: Of these tools (:func:`tool_documents`), and of others, if you like.
        tools: What can be found.
        similarity_top_k: Tools, at most.
        **options: Of :meth:`rabtriever.Index.search`.
    """
    options["where"] = where_among([str(tool.metadata.name) for tool in tools], options.get("where"))
    retriever = RabtrieverRetriever(index, similarity_top_k, **options)
    return ObjectRetriever(retriever, SimpleToolNodeMapping.from_objects(tools))


def tool_documents(tools: Iterable[BaseTool]) -> list[data.Document]:
    """Returns what to index of LlamaIndex's tools; see :func:`rabtriever.integrations.tool_search.tool_documents`."""
    return tool_search.tool_documents(tool.metadata.to_openai_tool() for tool in tools)
