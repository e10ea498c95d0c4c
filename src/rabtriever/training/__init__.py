"""Learning: the reranker from judgements, the retriever from the reranker."""
