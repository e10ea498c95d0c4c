"""The graphs' bookkeeping, everywhere; the graphs themselves where there is CUDA."""

import pytest
import torch
from tiny import TEMPLATE

from rabtriever.errors import InputError
from rabtriever.llm import graph_reader
from rabtriever.llm.graph_reader import GraphReader
from rabtriever.llm.loading import load_llm
from rabtriever.llm.torch_reader import TorchReader
from rabtriever.reranker import GenerativeReranker

QUERIES = ["rain", "please show me the weather for my city", "cook bread", "please " * 20]


@pytest.fixture
def recorded(monkeypatch):
    """Recording without CUDA: what is replayed is computed again."""
    runs = []

    def record(run, device):
        runs.append(run)
        box = []
        return lambda: box.insert(0, run()), lambda: box[0]

    monkeypatch.setattr(graph_reader, "record", record)
    return runs


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_text_alone_is_read_as_torch_reads_it(reranker, recorded, pooling):
    reader, reference = GraphReader(reranker.llm.model), TorchReader(reranker.llm.model)
    ids = reranker.prompt.query_ids(QUERIES, alone=True)
    for sequence in [*ids, ids[0][:1], *ids]:
        found, expected = reader.read([sequence], pooling), reference.read([sequence], pooling)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    sizes = {next(size for size in graph_reader.SIZES if size >= len(sequence)) for sequence in ids}
    assert len(recorded) == len(sizes | {16}) > 1


def test_what_was_read_stays_when_the_next_is_read(reranker, recorded):
    reader = GraphReader(reranker.llm.model)
    one, two = reranker.prompt.query_ids(["rain", "bread"], alone=True)
    first = reader.read([one])
    kept = first.clone()
    assert not torch.equal(reader.read([two]), kept)
    torch.testing.assert_close(first, kept)


def test_several_texts_and_long_ones_are_torchs(reranker, recorded, monkeypatch):
    monkeypatch.setattr(graph_reader, "SIZES", (4,))
    reader, ids = GraphReader(reranker.llm.model), reranker.prompt.query_ids(QUERIES, alone=True)
    assert reader.read(ids).shape == reader.read([ids[0] * 2] * 4).shape
    reader.read(ids[-1:])
    assert not recorded


def test_it_is_for_cuda(llm_folder):
    with pytest.raises(InputError, match="'cuda-graphs': made for CUDA, not for cpu; take 'auto'"):
        load_llm(str(llm_folder), device="cpu", backend="cuda-graphs")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_graphs_give_torchs_states(llm_folder, pooling):
    both = [
        GenerativeReranker(load_llm(str(llm_folder), dtype=torch.float32, device="cuda", backend=name), TEMPLATE)
        for name in ("torch", "cuda-graphs")
    ]
    ids = both[0].prompt.query_ids(QUERIES, alone=True)
    for _ in range(2):
        for sequence in ids:
            expected, found = (one.backbone.states([sequence], pooling) for one in both)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
