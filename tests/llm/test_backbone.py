import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import ARCHITECTURES, make_reranker
from transformers import AutoModelForCausalLM

from rabtriever.errors import InputError
from rabtriever.llm import backbone as module
from rabtriever.llm import torch_engine
from rabtriever.llm.backbone import NotFiniteError, sliding_window, token_batches
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.llm.torch_engine import TorchEngine

QUERIES = ["rain", "please show me the weather for my city", "cook bread"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light for my table please", "play music"]
PAIRS = torch.cartesian_prod(torch.arange(3), torch.arange(4)).flip(0)
ENGINES = [*((name, "torch") for name in ARCHITECTURES), ("llama", "int8"), ("qwen3", "int8")]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def each_reranker(request, llm_folders):
    return make_reranker(llm_folders[request.param])


@pytest.fixture(scope="module", params=ENGINES, ids="-".join)
def each_engine(request, llm_folders):
    """A reranker of every architecture on torch, and of some on int8."""
    architecture, backend = request.param
    options = {} if backend == "torch" else {"backend": backend}
    return make_reranker(llm_folders[architecture], **options)


@pytest.fixture(autouse=True)
def _empty_caches(request):
    for name in ("reranker", "each_reranker", "each_engine"):
        if name in request.fixturenames:
            request.getfixturevalue(name).llm.backbone._kv_cache.clear()


def pair_states(llm, documents, queries, pairs):
    """The states (n, H) of all pairs."""
    result = torch.full((len(pairs), llm.hidden_size), torch.nan)
    for rows, states in llm.backbone.pair_states(documents, queries, torch.as_tensor(pairs)):
        result[rows] = states
    return result


def whole_prompts(llm, documents, queries, pairs):
    """The same from whole prompts, one at a time."""
    return torch.cat([llm.backbone.states([documents[d] + queries[q]]) for q, d in torch.as_tensor(pairs).tolist()])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_batched_and_padded_equals_one_by_one(each_reranker, pooling):
    llm = each_reranker.llm
    ids = llm.prompt.query_ids(QUERIES, with_bos=True)
    together = llm.backbone.states(ids, pooling)
    alone = torch.cat([llm.backbone.states([sequence], pooling) for sequence in ids])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert together.dtype == torch.float32


def test_cached_documents_give_the_whole_prompts_states(each_engine):
    llm = each_engine.llm
    documents, queries = llm.prompt.document_ids(DOCUMENTS), llm.prompt.query_ids(QUERIES)
    whole = whole_prompts(llm, documents, queries, PAIRS)
    torch.testing.assert_close(pair_states(llm, documents, queries, PAIRS), whole, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(pair_states(llm, documents, queries, PAIRS[:3]), whole[:3], atol=5e-5, rtol=1e-4)


def test_joined_caches_of_other_orders_and_blocks_give_the_same_states(each_engine, monkeypatch):
    llm = each_engine.llm
    documents, queries = llm.prompt.document_ids(DOCUMENTS), llm.prompt.query_ids(QUERIES)
    whole = whole_prompts(llm, documents, queries, PAIRS)
    pair_states(llm, documents[:1], queries, [(0, 0)])
    pair_states(llm, documents[2:], queries, [(1, 1), (1, 0)])
    monkeypatch.setattr(module, "MAX_PREFILL_TOKENS", 40)  # several blocks
    found = pair_states(llm, documents[::-1], queries, torch.stack([PAIRS[:, 0], 3 - PAIRS[:, 1]], dim=1))
    torch.testing.assert_close(found, whole, atol=5e-5, rtol=1e-4)
    assert len(llm.backbone._kv_cache) == 4


@pytest.mark.parametrize("architecture", ["gemma3_text", "mistral"])
@pytest.mark.parametrize("shorter", [0, 1, 5, 30])
def test_pairs_up_to_the_whole_window_equal_the_whole_prompt(llm_folders, architecture, shorter):
    """Padding between a document and a query takes room in the window."""
    fixed = make_reranker(llm_folders[architecture]).llm.prompt.max_tokens - 48
    window = sliding_window(make_reranker(llm_folders[architecture]).llm.loaded.config)
    room = window - fixed - shorter
    template = PromptTemplate(document_tokens=room - 20, query_tokens=20)
    llm = make_reranker(llm_folders[architecture], template).llm
    assert llm.prompt.max_tokens == window - shorter
    rng = np.random.default_rng(shorter)
    draw = [" ".join(rng.choice(["rain", "city", "lamp", "bread", "weather"], 120)) for _ in range(3)]
    with pytest.warns(UserWarning, match="truncated"):
        documents, queries = llm.prompt.document_ids([*draw, "rain", "a lamp"]), llm.prompt.query_ids([*draw, "city"])
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    whole = whole_prompts(llm, documents, queries, pairs)
    torch.testing.assert_close(pair_states(llm, documents, queries, pairs), whole, atol=5e-5, rtol=1e-4)


def test_prompts_longer_than_the_window_are_refused(llm_folders):
    with pytest.raises(InputError, match="lower document_tokens"):
        make_reranker(llm_folders["mistral"], PromptTemplate(document_tokens=100, query_tokens=100))
    with pytest.raises(InputError, match="the LLM reads 1024"):
        make_reranker(llm_folders["llama"], PromptTemplate(document_tokens=1000, query_tokens=100))


def test_states_come_after_the_final_norm(each_reranker):
    llm = each_reranker.llm
    ids = llm.prompt.query_ids(QUERIES[:1], with_bos=True)
    logits = llm.loaded.model(input_ids=torch.tensor(ids)).logits[0, -1]
    yes, no = llm.prompt.choice_ids
    state = llm.backbone.states(ids)[0]
    torch.testing.assert_close(state @ llm.choice_direction, logits[yes] - logits[no], atol=1e-4, rtol=1e-4)


def test_small_budgets_change_nothing(reranker, monkeypatch):
    expected = reranker.log_odds(QUERIES, DOCUMENTS)
    reranker.llm.backbone._kv_cache.clear()
    monkeypatch.setattr(reranker.llm.backbone.engine, "token_budget", 8)
    monkeypatch.setattr(torch_engine, "TOKEN_BUDGET", 8)
    monkeypatch.setattr(module, "MAX_PREFILL_BYTES", 1)
    np.testing.assert_allclose(reranker.log_odds(QUERIES, DOCUMENTS), expected, atol=1e-4, rtol=1e-4)


def test_states_with_gradients_and_without_padding_are_the_same(each_reranker, monkeypatch):
    llm = each_reranker.llm
    ids, queries = llm.prompt.document_ids(DOCUMENTS), llm.prompt.query_ids(QUERIES)
    expected = llm.backbone.states(ids, "mean")
    monkeypatch.setattr(torch_engine, "TOKEN_BUDGET", 24)  # several batches
    exact = TorchEngine(llm.loaded.model, pad=False)
    torch.testing.assert_close(exact.encode(ids, "mean"), expected, atol=1e-5, rtol=1e-4)
    cache = exact.prefill(ids)
    torch.testing.assert_close(cache.means, expected, atol=1e-5, rtol=1e-4)
    rows = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        exact.encode_with_prefix(cache, rows, queries),
        pair_states(llm, ids, queries, list(enumerate(rows.tolist()))),
        atol=5e-5,
        rtol=1e-4,
    )


def test_padding_does_not_depend_on_gradients(llm_folder):
    """A policy that is trained and its reference, which is not, must differ by weights alone."""
    model = AutoModelForCausalLM.from_pretrained(llm_folder, dtype=torch.bfloat16).eval()
    for engine in (TorchEngine(model, pad=False), TorchEngine(model)):
        states = []
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                cache = engine.prefill([[0, 5, 9], [0, 7]])
                states.append(engine.encode_with_prefix(cache, torch.tensor([0, 1, 1]), [[8], [9, 30], [5, 6, 7]]))
        assert states[0].requires_grad and torch.equal(*states)


@pytest.mark.parametrize("budget", [2048, 32])
def test_a_document_is_computed_once_for_all_calls(reranker, monkeypatch, budget):
    computed = []
    monkeypatch.setattr(module, "MAX_PREFILL_TOKENS", budget)  # the small one makes several blocks of documents
    original = TorchEngine.prefill
    monkeypatch.setattr(
        TorchEngine, "prefill", lambda self, ids: computed.extend(map(tuple, ids)) or original(self, ids)
    )
    candidates = [DOCUMENTS, DOCUMENTS[::-1], [*DOCUMENTS[1:3], "a new document"], DOCUMENTS[2:]]
    for query, documents in zip([*QUERIES, "rain"], candidates, strict=True):
        reranker.log_odds([query], documents)
    assert len(computed) == len(set(computed)) == len(DOCUMENTS) + 1


def test_tokens_of_pairs_are_counted(llm_folder):
    llm = (reranker := make_reranker(llm_folder)).llm
    documents, queries = llm.prompt.document_ids(DOCUMENTS), llm.prompt.query_ids(QUERIES)
    once, of_queries = sum(map(len, documents)), len(DOCUMENTS) * sum(map(len, queries))
    whole = len(QUERIES) * once + of_queries
    reranker.log_odds(QUERIES, DOCUMENTS)
    assert llm.backbone.token_counts == {"computed": once + of_queries, "without_cache": whole}
    reranker.log_odds(QUERIES, DOCUMENTS[::-1])
    assert llm.backbone.token_counts == {"computed": once + 2 * of_queries, "without_cache": 2 * whole}


def test_cached_keys_and_values_stay_within_their_memory(each_engine):
    llm = each_engine.llm
    backbone, documents = (
        llm.backbone,
        llm.prompt.document_ids([f"{word} {text}" for word in QUERIES for text in DOCUMENTS]),
    )
    queries, pairs = llm.prompt.query_ids(QUERIES[:1]), [(0, d) for d in range(12)]
    expected = pair_states(llm, documents, queries, pairs)
    whole, original = backbone._kv_cache._total, backbone._kv_cache
    assert len(original) == 12
    try:
        for share in (0, 0.3, 0.8):
            backbone._kv_cache = type(original)(int(share * whole))
            for _ in range(2):
                torch.testing.assert_close(pair_states(llm, documents, queries, pairs), expected, atol=5e-5, rtol=1e-4)
                assert sum(cache.nbytes for cache, _ in backbone._kv_cache._values.values()) <= share * whole
            assert (len(backbone._kv_cache) > 0) == (share > 0)
    finally:
        backbone._kv_cache = original


def test_a_call_larger_than_the_cache_leaves_something_for_the_next(llm_folder, monkeypatch):
    monkeypatch.setattr(module, "MAX_PREFILL_TOKENS", 32)  # several blocks
    documents = [f"{word} {text}" for word in QUERIES for text in DOCUMENTS]
    reranker = make_reranker(llm_folder)
    reranker.log_odds(["rain"], documents)
    half = reranker.llm.backbone._kv_cache._total // 2
    reranker = make_reranker(llm_folder, kv_cache_bytes=half)
    of_query = len(documents) * len(reranker.llm.prompt.query_ids(["rain"])[0])
    computed = []
    for _ in range(3):
        reranker.llm.backbone.token_counts.clear()
        reranker.log_odds(["rain"], documents)
        computed.append(reranker.llm.backbone.token_counts["computed"] - of_query)
    assert computed[1] == computed[2] < 0.75 * computed[0]


def test_equal_documents_and_queries_get_equal_log_odds(each_engine):
    queries, documents = [*QUERIES, "rain"], [*DOCUMENTS, "a recipe", *["play music"] * 5]
    counts = each_engine.llm.backbone.token_counts
    counts.clear()
    log_odds = each_engine.log_odds(queries, documents)
    once = dict(counts)
    each_engine.llm.backbone._kv_cache.clear()
    counts.clear()
    each_engine.log_odds(QUERIES, DOCUMENTS)
    assert counts == once  # equal pairs are computed once
    np.testing.assert_array_equal(log_odds[0], log_odds[3])
    np.testing.assert_array_equal(log_odds[:, 1], log_odds[:, 4])
    for column in range(5, 10):
        np.testing.assert_array_equal(log_odds[:, 3], log_odds[:, column])


def test_the_mean_leaves_the_first_token_out(reranker):
    llm = reranker.llm
    sequence = llm.prompt.query_ids(["rain for my city"], with_bos=True)[0]
    hidden = llm.loaded.model.get_decoder()(input_ids=torch.tensor([sequence])).last_hidden_state[0]
    torch.testing.assert_close(llm.backbone.states([sequence], "mean")[0], hidden[1:].mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(llm.backbone.states([sequence[:1]], "mean")[0], hidden[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "int8"])
def test_a_state_that_is_not_finite_is_an_error(poisoned_folder, backend):
    llm = make_reranker(poisoned_folder, backend=backend).llm
    bad = llm.prompt.document_ids(["cook bread"])[0]
    documents, queries = [*llm.prompt.document_ids(DOCUMENTS[:2]), bad], llm.prompt.query_ids(QUERIES[:2])
    assert llm.backbone.states(documents[:2]).isfinite().all()
    with pytest.raises(NotFiniteError, match="sequence 2") as caught:
        llm.backbone.states(documents)
    assert caught.value.position == 2
    pairs = [(q, d) for d in range(3) for q in range(2)]
    assert pair_states(llm, documents, queries, pairs[:4]).isfinite().all()
    with pytest.raises(NotFiniteError) as caught:
        pair_states(llm, documents, queries, pairs)
    assert caught.value.position in (4, 5)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_token_batches_cover_everything_within_budget(lengths, budget):
    batches = list(token_batches(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)


def test_a_batch_of_pairs_gathers_no_more_caches_than_fit_in_memory(reranker, monkeypatch):
    llm = reranker.llm
    documents = llm.prompt.document_ids(DOCUMENTS[:1])
    queries = llm.prompt.query_ids(["rain"] * 9)
    pairs = torch.tensor([[q, 0] for q in range(9)])
    expected = pair_states(llm, documents, queries, pairs)
    sizes, encode = [], llm.backbone.engine.encode_with_prefix
    monkeypatch.setattr(
        llm.backbone.engine, "encode_with_prefix", lambda c, rows, q: (sizes.append(len(q)), encode(c, rows, q))[1]
    )
    bytes_per_document = len(documents[0]) * llm.backbone.engine.kv_bytes_per_token
    monkeypatch.setattr(module, "MAX_PREFILL_BYTES", 4 * bytes_per_document)
    torch.testing.assert_close(pair_states(llm, documents, queries, pairs), expected, atol=1e-5, rtol=1e-5)
    assert sizes == [4, 4, 1]
