import pytest

from rabtriever.errors import InputError
from rabtriever.rerankers.remote.source import RemoteSource, is_remote


def test_a_source_names_protocol_endpoint_and_model():
    source = RemoteSource.parse("vllm-score+https://gpu.example:8443/v1/score?api-version=2#BAAI/bge-reranker-base")
    assert source == ("vllm-score", "https://gpu.example:8443/v1/score?api-version=2", "BAAI/bge-reranker-base")
    assert str(source) == "vllm-score+https://gpu.example:8443/v1/score#BAAI/bge-reranker-base"
    assert RemoteSource.parse("tei+http://127.0.0.1:8080/rerank").model == ""


@pytest.mark.parametrize("name", ["tei+http://127.0.0.1/rerank", "tie+https://host/rerank", "chat+ftp://host/"])
def test_what_is_written_as_a_source_is_remote(name):
    assert is_remote(name)


@pytest.mark.parametrize("name", ["tools", "owner/name", "./folder", "/a+b/c", "https://host/rerank", "a+b", "a+b:/c"])
def test_paths_and_hub_ids_are_not_remote(name):
    assert not is_remote(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://host/rerank", "not a remote teacher; write <protocol>"),
        ("tie+https://host/rerank", "tie: no protocol of remote teachers; choose one of cohere, jina"),
        ("tei+ftp://host/rerank", "not an address; write tei[+]https://HOST/rerank"),
        ("tei+https:///rerank", "not an address"),
        ("tei+https://host:port/rerank", "not an address"),
        ("tei+https://host:99999/rerank", "not an address"),
        ("tei+https://[::1/rerank", "not an address"),
        ("tei+https://ho st/rerank", "not an address"),
        ("tei+https://host/rerank\nx", "not an address"),
        ("tei+https://host", "give the endpoint in full, such as /rerank"),
        ("jina+https://host/v1/rerank", "name the model, jina[+]https://host/v1/rerank#MODEL"),
        ("tei+http://host/rerank", "use https"),
        ("tei+http://127.0.0.1.example/rerank", "use https"),
    ],
)
def test_a_wrong_source_is_one_line(name, message):
    with pytest.raises(InputError, match=message) as raised:
        RemoteSource.parse(name)
    assert "\n" not in str(raised.value)


def test_a_key_in_the_address_is_refused_and_not_shown():
    with pytest.raises(InputError, match="environment") as raised:
        RemoteSource.parse("tei+https://me:hidden@host/rerank")
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1.2.3"])
def test_http_goes_to_this_machine(host):
    assert RemoteSource.parse(f"tei+http://{host}:80/rerank").is_local


def test_http_goes_elsewhere_if_that_is_allowed():
    assert not RemoteSource.parse("tei+http://gpu:80/rerank", allow_http=True).is_local
