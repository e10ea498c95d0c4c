import pytest

from rabtriever.errors import InputError
from rabtriever.index import Index
from rabtriever.serving.app import open_index
from rabtriever.serving.config import ServerConfig, ServerLimits


def test_a_worker_process_gets_the_same_options():
    limits = ServerLimits(timeout=3.5, searches=7)
    config = ServerConfig(
        uri="index", model="model", load_options={"dtype": "float32"}, cors=("https://a.example",), limits=limits
    )
    assert ServerConfig.from_json(config.to_json()) == config


def test_a_bound_is_above_zero():
    with pytest.raises(InputError, match="--keep-minutes 0: give a number above 0") as error:
        ServerLimits(keep_minutes=0)
    assert error.value.param == "keep_minutes"


def test_the_retriever_is_loaded_with_a_servers_caches_and_options(retriever, tmp_path):
    from serving.conftest import DOCUMENTS

    retriever.save_pretrained(tmp_path / "model")
    Index.build(tmp_path / "index", retriever, DOCUMENTS)
    options = {"device": "cpu", "dtype": "bfloat16", "backend": "torch"}
    loaded = open_index(ServerConfig(uri=str(tmp_path / "index"), load_options=options)).retriever
    assert str(loaded.reranker.llm.loaded.model.dtype) == "torch.bfloat16"
    row = loaded.encode_document("lamp")
    assert (loaded.cached_document("lamp") == row).all() and retriever.cached_document("lamp") is None
