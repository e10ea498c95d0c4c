"""A teacher behind a LiteLLM proxy: `litellm_teacher.py http://127.0.0.1:4000 MODEL`, a rerank model of its config.

The key is read from $RABTRIEVER_TEACHER_KEY.
"""

import sys

from home import FUNCTIONS

from rabtriever import load_reranker

proxy, model = sys.argv[1:]
teacher = load_reranker(f"cohere+{proxy}/v2/rerank#{model}")
texts = [function.__doc__ for function in FUNCTIONS]
for row in teacher.rank("I knocked my soda over in the kitchen", texts, top_k=3):
    print(f"{row['score']:.0%} {texts[row['corpus_id']]}")
print(f"{teacher.calls} requests, {teacher.cached} pairs from the cache")
