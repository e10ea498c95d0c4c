"""An index and rankers that all adapters are compared with."""

import os
from pathlib import Path

import pytest
from tiny import make_reranker, make_retriever

from rabtriever import CrossEncoderReranker, Document, Index, Rabtriever

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

QUERY = "what is the weather in the city"
WORDS = ["weather", "rain", "wind", "city", "flight", "hotel", "recipe", "cook", "bread", "music", "song", "lamp"]
TEXTS = [f"find the {one} and {other}" for one in WORDS for other in WORDS[:3] if one != other]


@pytest.fixture(scope="session")
def saved_retriever(llm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random retriever with a reranker."""
    folder = tmp_path_factory.mktemp("retriever") / "model"
    make_retriever(make_reranker(llm_folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_retriever(saved_retriever: Path) -> Rabtriever:
    return Rabtriever.from_pretrained(saved_retriever, device="cpu", backend="torch", dtype="float32")


@pytest.fixture(scope="session")
def index(tiny_retriever: Rabtriever, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of 33 documents, in a folder."""
    documents = [Document(f"d{i}", text, metadata={"even": i % 2 == 0, "n": i}) for i, text in enumerate(TEXTS)]
    return Index.build(tmp_path_factory.mktemp("index") / "index", tiny_retriever, documents)


@pytest.fixture(params=["generative", "cross-encoder", "retriever"])
def ranker(request: pytest.FixtureRequest, tiny_retriever: Rabtriever, cross_encoder_folder: Path) -> object:
    """Everything that ranks texts."""
    if request.param == "cross-encoder":
        return CrossEncoderReranker.from_pretrained(cross_encoder_folder, device="cpu")
    return tiny_retriever.reranker if request.param == "generative" else tiny_retriever


def described(name: str) -> dict:
    """A function tool in the shape of OpenAI's responses."""
    properties = {"place": {"type": "string", "description": f"where the {name} is"}}
    parameters = {"type": "object", "properties": properties, "required": ["place"]}
    return {"type": "function", "name": name, "description": f"find the {name}", "parameters": parameters}


@pytest.fixture(scope="session")
def tool_index(tiny_retriever: Rabtriever) -> Index:
    """An index of twelve tools."""
    from rabtriever.integrations.tool_search import tool_documents

    return Index.build(None, tiny_retriever, tool_documents(described(name) for name in WORDS))
