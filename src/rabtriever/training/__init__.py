"""Learning: the reranker from labels, the retriever from the reranker."""
