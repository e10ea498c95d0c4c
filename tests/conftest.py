"""A tiny random LLM, built in memory, and what is made of it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import hub  # noqa: F401 - a fixture
from safetensors.torch import load_file, save_file
from store import s3_server, store  # noqa: F401 - fixtures
from tiny import (
    ARCHITECTURES,
    WORDS,
    chat_tokenizer,
    make_reranker,
    make_retriever,
    save_chat_llm,
    save_cross_encoder,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from rabtriever.data import Document, RetrievalData
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.kernels import why_no_llvm
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever

SOURCE = Path(__file__).parents[1] / "src"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _machine_code() -> None:
    """Machine code is cached in the usual folder, whatever cache a test sets: compiling takes a quarter of a minute."""
    if why_no_llvm() is None:
        from rabtriever.kernels.compile import compiled_folder

        compiled_folder()


@pytest.fixture(scope="session", autouse=True)
def _offline() -> Iterator[None]:
    """No test may reach beyond this machine."""
    connect = socket.socket.connect

    def near(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"the tests are offline, something reached for {address}")
        connect(self, address)

    socket.socket.connect = near  # type: ignore[method-assign,assignment]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a line of text; it knows " yes" and " no"."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([WORDS] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def llm_folders(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved tiny random LLM of each architecture."""
    folders = {}
    for seed, architecture in enumerate(ARCHITECTURES):
        config = AutoConfig.for_model(
            architecture,
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=1024,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=1,
            **({"sliding_window": 128} if architecture in ("gemma3_text", "mistral") else {}),
        )
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            # The default initialisation is so small that all texts look alike; tests should be able to tell them apart.
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.3)
        folders[architecture] = tmp_path_factory.mktemp(architecture)
        model.save_pretrained(folders[architecture])
        tokenizer.save_pretrained(folders[architecture])
    return folders


@pytest.fixture(scope="session")
def llm_folder(llm_folders: dict[str, Path]) -> Path:
    """The tiny Llama."""
    return llm_folders["llama"]


@pytest.fixture(scope="session")
def chat_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random instruct LLM, which knows all presets' choices."""
    return save_chat_llm(tmp_path_factory.mktemp("chat"), chat_tokenizer(tokenizer))


@pytest.fixture(scope="session")
def cross_encoder_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random cross-encoder."""
    return save_cross_encoder(tmp_path_factory.mktemp("cross-encoder"), tokenizer)


@pytest.fixture(scope="session")
def poisoned_folder(
    llm_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny Llama, whose states are not finite from the word "bread" on."""
    folder = tmp_path_factory.mktemp("poisoned") / "llm"
    shutil.copytree(llm_folder, folder)
    weights = load_file(folder / "model.safetensors")
    token = tokenizer(" bread", add_special_tokens=False)["input_ids"]
    weights["model.embed_tokens.weight"][token[-1], 0] = torch.inf
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def sentence_folders(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved tiny random sentence-transformers model of each of two architectures."""
    from encoders.models import save_sentence_model

    names = ("bert", "mpnet")
    return {name: save_sentence_model(tmp_path_factory.mktemp(name) / "model", tokenizer, name) for name in names}


@pytest.fixture(scope="session")
def sentence_encoders(sentence_folders: dict[str, Path]) -> dict[str, SentenceEncoder]:
    """The encoders of ``sentence_folders``, on the CPU."""
    options = {"device": "cpu", "backend": "torch"}
    return {name: SentenceEncoder.from_pretrained(str(path), **options) for name, path in sentence_folders.items()}


@pytest.fixture(scope="session")
def reranker(llm_folder: Path) -> GenerativeReranker:
    """A reranker on the tiny Llama, untrained."""
    return make_reranker(llm_folder)


@pytest.fixture
def retriever(reranker: GenerativeReranker) -> Rabtriever:
    """A retriever on the tiny Llama with a random predictor."""
    return make_retriever(reranker)


@pytest.fixture
def tiny_data() -> RetrievalData:
    """Six documents, twelve queries, two splits."""
    topics = ["weather", "flight", "recipe", "music", "lamp", "sponge"]
    documents = {topic: Document(topic, f"find the {topic} for me", topic) for topic in topics}
    queries = {
        f"q{i}": f"please show {topic} {word}"
        for i, (topic, word) in enumerate((topic, word) for word in ("city", "table") for topic in topics)
    }
    right = {query: {topics[i % 6]: 1} for i, query in enumerate(queries)}
    return RetrievalData(
        "tiny", documents, queries, {"train": dict(list(right.items())[:8]), "test": dict(list(right.items())[8:])}
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets, if this machine has it."""
    path = Path(os.environ.get("RABTRIEVER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set RABTRIEVER_DATA to a folder of BEIR folders")
    return path
