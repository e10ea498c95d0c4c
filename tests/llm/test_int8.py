"""Equivalences of the int8 backend. The tiny LLMs are random: what eight bits cost is measured on real ones."""

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from tiny import TEMPLATE, make_reranker
from transformers import AutoConfig

from rabtriever.errors import InputError
from rabtriever.kernels import llvm
from rabtriever.llm import backbone as module
from rabtriever.llm.engines import choose_backend, create_engine
from rabtriever.llm.int8 import PANEL_COLUMNS, elementwise, gang, matmul
from rabtriever.llm.int8.engine import Int8Engine
from rabtriever.llm.int8.rotation import fold_hadamard, hadamard, hadamard_block_size, orthogonal
from rabtriever.llm.int8.weights import pack_layers
from rabtriever.llm.loading import load_llm
from rabtriever.llm.prompted import PromptedLLM

LLAMAS = ("llama", "mistral", "qwen2", "qwen3")
QUERIES = ["rain", "please show me the weather for my city", "cook bread"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light for my table please", "play music"]
PAIRS = torch.cartesian_prod(torch.arange(3), torch.arange(4)).flip(0)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RABTRIEVER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=LLAMAS)
def both(request, llm_folders):
    """The float32 reference and its int8 twin."""
    folder = llm_folders[request.param]
    return make_reranker(folder).llm, PromptedLLM(load_llm(str(folder), device="cpu", backend="int8"), TEMPLATE)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def pair_states(llm, documents, queries, pairs=PAIRS):
    """The states of all pairs, in their order."""
    result = torch.empty(len(pairs), llm.hidden_size)
    for rows, states in llm.backbone.pair_states(documents, queries, pairs):
        result[rows] = states
    return result


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("side", ["query", "document"])
def test_it_follows_the_reference(both, pooling, side):
    reference, int8 = both
    prompt = reference.prompt
    ids = prompt.query_ids(QUERIES, with_bos=True) if side == "query" else prompt.document_ids(DOCUMENTS)
    expected, found = reference.backbone.states(ids, pooling), int8.backbone.states(ids, pooling)
    assert torch.cosine_similarity(expected, found).min() > 0.995
    assert int8.backbone.engine.name == "int8" and reference.backbone.engine.name == "torch"


def test_pairs_follow_the_reference(both):
    reference, int8 = both
    documents, queries = reference.prompt.document_ids(DOCUMENTS), reference.prompt.query_ids(QUERIES)
    states = [pair_states(one, documents, queries) for one in both]
    assert torch.cosine_similarity(*states).min() > 0.99
    wrong = pair_states(reference, documents, queries, PAIRS.roll(1, 0))
    assert torch.cosine_similarity(wrong, states[1]).min() < 0.99  # the bar above tells pairs apart


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_what_shares_a_batch_changes_nothing(both, pooling, threads):
    int8 = both[1]
    ids = int8.prompt.query_ids(QUERIES * 3, with_bos=True)
    together = int8.backbone.states(ids, pooling)
    alone = torch.cat([int8.backbone.states([sequence], pooling) for sequence in ids])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_cached_documents_give_the_whole_prompts_states(both, threads, monkeypatch):
    int8 = both[1]
    documents, queries = int8.prompt.document_ids(DOCUMENTS), int8.prompt.query_ids(QUERIES)
    whole = int8.backbone.states([documents[d] + queries[q] for q, d in PAIRS.tolist()])
    torch.testing.assert_close(pair_states(int8, documents, queries), whole, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(int8.backbone.engine, "token_budget", 8)
    monkeypatch.setattr(module, "MAX_PREFILL_TOKENS", 8)
    int8.backbone._kv_cache.clear()
    torch.testing.assert_close(pair_states(int8, documents, queries), whole, atol=1e-5, rtol=1e-5)
    int8.backbone._kv_cache.clear()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_texts_of_other_beginnings_and_of_one_token(both, pooling):
    reference, int8 = both
    ids = [[7], [9, 11, 13, 15, 8], reference.prompt.shared_prefixes[0], reference.prompt.shared_prefixes[1] + [7]]
    expected, found = reference.backbone.states(ids, pooling), int8.backbone.states(ids, pooling)
    assert torch.cosine_similarity(expected, found).min() > 0.99


def test_it_reads_beyond_the_positions_it_prepared(both):
    reference, int8 = both
    ids = [[0, *np.random.default_rng(0).integers(2, 200, 110).tolist()]]
    int8.backbone.engine.rope = int8.backbone.engine.rope[:, :50]
    assert torch.cosine_similarity(reference.backbone.states(ids), int8.backbone.states(ids)).min() > 0.98


def test_several_threads_may_call_at_once(both):
    int8 = both[1]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    ids = int8.prompt.query_ids(QUERIES * 4, with_bos=True)
    expected, found = int8.backbone.states(ids), {}
    callers = [
        threading.Thread(target=lambda i=i: found.update({i: int8.backbone.states(ids)}), daemon=True) for i in range(6)
    ]
    [caller.start() for caller in callers]
    [caller.join(60) for caller in callers]
    torch.set_num_threads(before)
    assert len(found) == 6
    for states in found.values():
        torch.testing.assert_close(states, expected, atol=1e-6, rtol=1e-6)


def test_threads_that_need_other_positions_do_not_meet(both):
    int8 = both[1]
    rng = np.random.default_rng(0)
    texts = [[0, *rng.integers(2, 200, size).tolist()] for size in (40, 300, 90, 500)]
    expected = torch.cat([int8.backbone.states([ids]) for ids in texts])
    int8.backbone.engine.rope = int8.backbone.engine.rope[:, :50]
    with ThreadPoolExecutor(4) as pool:
        found = torch.cat(list(pool.map(lambda ids: int8.backbone.states([ids]), texts)))
    torch.testing.assert_close(found, expected)


def test_several_threads_may_read_pairs(both):
    int8 = both[1]
    queries = int8.prompt.query_ids(QUERIES)
    sets = [int8.prompt.document_ids([*DOCUMENTS[i:], *DOCUMENTS[:i]]) for i in range(4)]
    expected = [pair_states(int8, documents, queries) for documents in sets]
    int8.backbone._kv_cache.clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda documents: pair_states(int8, documents, queries), sets * 3))
    for i, states in enumerate(found):
        torch.testing.assert_close(states, expected[i % 4], atol=1e-5, rtol=1e-5)


def test_what_is_no_number_stays_none():
    codes = np.zeros(32, np.uint8)
    for value in (np.nan, np.inf, -np.inf):
        values = np.linspace(-1, 1, 32, dtype=np.float32)
        assert np.isfinite(elementwise.quantize(values, 32, codes))
        values[5] = value
        assert np.isnan(elementwise.quantize(values, 32, codes))
        scales, wide = np.empty(1, np.float32), np.empty((1, 32), np.uint8)
        ones = np.ones(1, np.float32)
        elementwise.add_and_normalise(
            np.zeros((1, 32), np.float32), 1, values[None], ones, np.float32(1e-5), wide, scales
        )
        assert np.isnan(scales[0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_heads_are_read_causally_by_any_attention(llm_folder, attention):
    model = load_llm(str(llm_folder), dtype=torch.float32, device="cpu").model
    model.set_attn_implementation(attention)
    head = [0, 5, 9, 20, 7]
    expected = model.get_decoder()(input_ids=torch.tensor([head])).last_hidden_state[0].float()
    found = Int8Engine.create(lambda: model, [head]).shared_prefixes[0].states
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_thread_that_fails_does_not_leave_the_others_waiting(both, monkeypatch):
    int8 = both[1]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    embeddings, calls = int8.backbone.engine.embeddings, []

    class Broken:
        def __getitem__(self, ids):
            calls.append(1)
            if len(calls) == 1:
                raise MemoryError("no room")
            return embeddings[ids]

    monkeypatch.setattr(int8.backbone.engine, "embeddings", Broken())
    with pytest.raises(MemoryError, match="no room"):
        int8.backbone.engine.encode(int8.prompt.query_ids(QUERIES * 2, with_bos=True))
    torch.set_num_threads(before)


def test_the_gang_leave_torchs_threads_as_they_are():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    assert gang.run_in_threads(4, lambda i: (i, torch.get_num_threads())) == [(i, 1) for i in range(4)]
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start(), other.join()
    assert found == [3] and torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_gemma_is_read_by_torch(llm_folders):
    folder = str(llm_folders["gemma3_text"])
    assert load_llm(folder, device="cpu").backend == "torch"
    with pytest.raises(InputError, match="backend 'int8': made for llama"):
        load_llm(folder, device="cpu", backend="int8")


def test_which_backend(llm_folder, monkeypatch):
    llm = load_llm(str(llm_folder), device="cpu", backend="torch")

    def chosen(backend, dtype_given=False):
        return choose_backend(llm.config, "cpu", backend, dtype_given=dtype_given)

    monkeypatch.setattr("rabtriever.kernels.llvm.VNNI", True)
    assert chosen("auto") == "int8"
    assert chosen("auto", dtype_given=True) == "torch"
    assert chosen("int8", dtype_given=True) == "int8"
    monkeypatch.setattr("rabtriever.kernels.llvm.VNNI", False)
    assert chosen("auto") == "torch"
    assert chosen("int8") == "int8"  # slower, but right
    with pytest.raises(InputError, match="backend 'onnx': choose from auto, torch, int8"):
        chosen("onnx")
    monkeypatch.setattr("rabtriever.llm.engines.why_no_llvm", lambda: "numba cannot be imported")
    assert chosen("auto") == "torch"
    with pytest.raises(InputError, match="backend 'int8': numba cannot be imported; use 'torch'"):
        chosen("int8")
    assert create_engine(llm).name == "torch"


def test_the_engine_frees_the_model(llm_folder):
    llm = load_llm(str(llm_folder), device="cpu", backend="int8")
    reference, engine = weakref.ref(llm.model), create_engine(llm, [[0, 5, 9]])
    gc.collect()
    assert reference() is None and engine.encode([[0, 5, 9, 7]], "last").isfinite().all()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"attention_bias": True}, "not for attention_bias"),
        ({"mlp_bias": True}, "not for mlp_bias"),
        ({"hidden_act": "gelu"}, "not for gelu, 48"),
        ({"intermediate_size": 40}, "not for silu, 40"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "depend on the length"),
    ],
)
def test_llms_that_it_would_read_wrongly_are_torchs(settings, fault):
    shape = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 8}
    config = AutoConfig.for_model("llama", **{**shape, "intermediate_size": 48, **settings})
    assert choose_backend(config, "cpu", "auto", dtype_given=False) == "torch"
    with pytest.raises(InputError, match=fault):
        choose_backend(config, "cpu", "int8", dtype_given=False)


def test_torch_needs_no_numba(llm_folder):
    code = (
        "import sys; sys.modules.update(numba=None, llvmlite=None)\n"
        "from rabtriever.rerankers.generative import GenerativeReranker\n"
        f"reranker = GenerativeReranker.from_pretrained({str(llm_folder)!r}, device='cpu', backend='torch')\n"
        "print(reranker.llm.backbone.engine.name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "torch", done.stderr


@pytest.mark.parametrize("size", [8, 32, 48, 576, 7])
def test_rotations_are_orthogonal_and_flat(size):
    q = orthogonal(size)
    torch.testing.assert_close(q @ q.T, torch.eye(size), atol=1e-5, rtol=0)
    assert q.abs().max() <= 2 / size**0.5 + 1e-6


def test_folded_weights_undo_the_mixing():
    weight, x = torch.randn(5, 96), torch.randn(96)
    block = hadamard_block_size(96)
    assert block == 2 and hadamard_block_size(1536) == 32
    mixed = torch.einsum("gbl,bc->gcl", x.view(-1, block, 16), hadamard(block) * block**0.5).flatten()
    torch.testing.assert_close(fold_hadamard(weight) @ mixed, weight @ x)


@njit
def _one_panel(codes, weights, offsets, scales, out):
    matmul.multiply_bytes(codes, 0, weights, 0, offsets, scales, out)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 48), st.integers(1, 70), st.integers(0, 99))
def test_the_product_of_bytes_is_exact(rows, columns, seed):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    weights, offsets, scales = pack_layers([(torch.from_numpy(weight), torch.full((rows,), 0.5))], 1)
    codes = rng.integers(0, 256, (8, 4 * weights.shape[2])).astype(np.uint8)
    out = np.empty((8, PANEL_COLUMNS), np.float32)
    _one_panel(codes, weights[0], offsets[0], scales[0], out)
    expected = 0.5 * (codes[:, :columns].astype(np.int64) - 128) @ weight.T.astype(np.int64)
    np.testing.assert_array_equal(out[:, :rows], expected)


def test_the_product_of_bytes_needs_no_vnni(monkeypatch):
    monkeypatch.setattr(llvm, "VNNI", False)
    _one_panel.recompile()
    try:
        test_the_product_of_bytes_is_exact.hypothesis.inner_test(48, 64, 0)
    finally:
        monkeypatch.undo()
        _one_panel.recompile()
