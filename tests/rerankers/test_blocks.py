from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.llm.prompted import PromptedLLM
from rabtriever.rerankers.blocks import distinct_pairs, make_blocks
from rabtriever.rerankers.generative import GenerativeReranker

PAIRS = st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60)


@settings(deadline=None)
@given(PAIRS, st.sampled_from(["query", "document"]), st.integers(1, 20))
def test_blocks_hold_every_pair_once_and_do_not_divide_what_fits_into_one(pairs, group_by, size):
    blocks = make_blocks(np.array(sorted(pairs), np.int64).reshape(-1, 2), group_by, size)
    assert sorted(map(tuple, np.concatenate(blocks).tolist() if blocks else [])) == sorted(pairs)
    assert all(0 < len(block) <= size for block in blocks)
    side = int(group_by == "document")
    for text in range(10):
        count = sum(pair[side] == text for pair in pairs)
        holders = [block for block in blocks if (block[:, side] == text).any()]
        assert len(holders) == -(-count // size)


def test_equal_texts_are_one_pair():
    pairs = np.array([[0, 0], [1, 1], [2, 0], [2, 1]])
    assert distinct_pairs(["a", "b", "a"], ["x", "x"], pairs).tolist() == [[0, 0], [1, 0]]


def test_what_is_read_first_is_grouped(reranker):
    template = replace(reranker.llm.template, query_first=True)
    assert reranker.group_by == "document"
    assert GenerativeReranker(PromptedLLM(reranker.llm.loaded, template)).group_by == "query"
