import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ARCHITECTURES, TEMPLATE, make_reranker

from rabtriever.errors import InputError
from rabtriever.llm import backbone as module
from rabtriever.llm import torch_reader
from rabtriever.llm.backbone import token_batches
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.llm.torch_engine import TorchEngine
from rabtriever.rerankers.generative import GenerativeReranker

QUERIES = ["rain", "please show me the weather for my city", "cook bread"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light for my table please", "play music"]


@pytest.fixture(params=ARCHITECTURES)
def each_reranker(request, llm_folders):
    return make_reranker(llm_folders[request.param])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_batched_and_padded_equals_one_by_one(each_reranker, pooling):
    ids = each_reranker.prompt.query_ids(QUERIES, alone=True)
    together = each_reranker.backbone.states(ids, pooling)
    alone = torch.cat([each_reranker.backbone.states([sequence], pooling) for sequence in ids])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert together.dtype == torch.float32


def test_cached_documents_give_the_whole_prompts_states(each_reranker):
    prompt, backbone = each_reranker.prompt, each_reranker.backbone
    documents, queries = prompt.document_ids(DOCUMENTS), prompt.query_ids(QUERIES)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(4)).flip(0)
    cached = backbone.pair_states(documents, queries, pairs)
    whole = backbone.states([documents[d] + queries[q] for q, d in pairs.tolist()])
    torch.testing.assert_close(cached, whole, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(backbone.pair_states(documents, queries, pairs[:3]), whole[:3], atol=2e-5, rtol=1e-4)


def test_states_come_after_the_final_norm(each_reranker):
    ids = each_reranker.prompt.query_ids(QUERIES[:1], alone=True)
    logits = each_reranker.llm.model(input_ids=torch.tensor(ids)).logits[0, -1]
    yes, no = each_reranker.prompt.choice_ids
    state = each_reranker.backbone.states(ids)[0]
    torch.testing.assert_close(state @ each_reranker.w, logits[yes] - logits[no], atol=1e-4, rtol=1e-4)


def test_small_budgets_change_nothing(reranker, monkeypatch):
    expected = reranker.log_odds(QUERIES, DOCUMENTS)
    monkeypatch.setattr(reranker.backbone.reader, "budget", 8)
    monkeypatch.setattr(torch_reader, "TOKEN_BUDGET", 8)
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    torch.testing.assert_close(reranker.log_odds(QUERIES, DOCUMENTS), expected, atol=1e-4, rtol=1e-4)


def test_reading_with_gradients_gives_the_same_states(each_reranker, monkeypatch):
    backbone, ids = each_reranker.backbone, each_reranker.prompt.document_ids(DOCUMENTS)
    expected = backbone.states(ids, "mean")
    monkeypatch.setattr(torch_reader, "TOKEN_BUDGET", 24)  # several batches
    torch.testing.assert_close(backbone.reader.read(ids, "mean"), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(backbone.reader.prefill(ids).means, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("budget", [2048, 32])
def test_documents_are_read_once_for_several_calls(reranker, monkeypatch, budget):
    reads = []
    monkeypatch.setattr(module, "BLOCK_TOKENS", budget)  # the small one makes several blocks of documents
    original = TorchEngine.prefill
    monkeypatch.setattr(TorchEngine, "prefill", lambda self, ids: reads.append(len(ids)) or original(self, ids))
    reranker.backbone.kept.clear()
    for query in QUERIES:
        reranker.log_odds([query], DOCUMENTS)
    assert sum(reads) == len(DOCUMENTS) and (len(reads) > 1) == (budget == 32)
    monkeypatch.setattr(reranker.backbone.kept, "capacity", 0)
    reads.clear()
    reranker.log_odds(QUERIES[:1], DOCUMENTS[:2])
    reranker.log_odds(QUERIES[:1], DOCUMENTS[:2])
    assert sum(reads) == 4
    reranker.backbone.kept.clear()


def test_tokens_of_pairs_are_counted(llm_folder):
    reranker = make_reranker(llm_folder)
    documents, queries = reranker.prompt.document_ids(DOCUMENTS), reranker.prompt.query_ids(QUERIES)
    once, asked = sum(map(len, documents)), len(DOCUMENTS) * sum(map(len, queries))
    reranker.log_odds(QUERIES, DOCUMENTS)
    assert reranker.backbone.tokens == {"read": once + asked, "whole": len(QUERIES) * once + asked}
    reranker.log_odds(QUERIES, DOCUMENTS)
    assert reranker.backbone.tokens == {"read": once + 2 * asked, "whole": 2 * (len(QUERIES) * once + asked)}


def test_the_mean_leaves_the_first_token_out(reranker):
    backbone = reranker.backbone
    sequence = reranker.prompt.query_ids(["rain for my city"], alone=True)[0]
    hidden = backbone.reader.decoder(input_ids=torch.tensor([sequence])).last_hidden_state[0]
    torch.testing.assert_close(backbone.states([sequence], "mean")[0], hidden[1:].mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.states([sequence[:1]], "mean")[0], hidden[0], atol=1e-5, rtol=1e-5)


def test_prompts_longer_than_the_window_are_refused(llm_folders):
    llm = make_reranker(llm_folders["mistral"]).llm
    with pytest.raises(InputError, match="lower document_tokens"):
        GenerativeReranker(llm, PromptTemplate(document_tokens=100, query_tokens=100))
    GenerativeReranker(llm, TEMPLATE)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_token_batches_cover_everything_within_budget(lengths, budget):
    batches = list(token_batches(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)
