"""Values of options, in a module that costs nothing: the library checks by them and the command line lists them."""

MODES = ("auto", "exact", "ann", "bm25", "encoder")
BACKENDS = ("auto", "torch", "int8")
DTYPES = ("float32", "bfloat16", "float16")
FEEDBACK_MODES = ("off", "texts", "digests")
PRESETS = ("plain", "chat", "qwen3-reranker", "bge-reranker-v2-gemma")
