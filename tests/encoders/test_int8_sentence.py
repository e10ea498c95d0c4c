"""The int8 engine of sentence-transformers models against the reference.

What eight bits cost real models is measured by benchmarks/encode/encoders.py.
"""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.models import save_sentence_model
from numba import njit
from transformers.activations import ACT2FN

from rabtriever.encoders import sentence_engines
from rabtriever.encoders.int8 import elementwise
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.encoders.sentence_files import find_sentence_model
from rabtriever.encoders.sentence_torch import TorchSentenceEngine
from rabtriever.errors import InputError, TextError

TEXTS = ["find the weather", "a recipe", "turn the lamp light for my table please", "play music", "rain"]
LONG = " ".join(["rain", "wind", "city", "bread", "music"] * 12)
MODELS = {
    "bert": {},
    "roberta": {"architecture": "roberta", "pooling": "cls", "normalize": False, "similarity_fn_name": "dot"},
    "mpnet": {"architecture": "mpnet"},
    "gemma": {"architecture": "gemma3_text", "dense": (48, 24)},
    "qwen3": {"architecture": "qwen3", "pooling": "lasttoken", "prompts": {"query": "show: "}},
    "prompts": {"prompts": {"query": "show: ", "document": "table of "}, "include_prompt": False},
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RABTRIEVER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tokenizer, tmp_path_factory):
    options = {"max_length": 60, **MODELS[request.param]}
    return save_sentence_model(tmp_path_factory.mktemp(request.param) / "model", tokenizer, **options)


@pytest.fixture(scope="module")
def bert(tokenizer, tmp_path_factory):
    return save_sentence_model(tmp_path_factory.mktemp("one") / "model", tokenizer)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def load(folder, backend="int8", **options):
    return SentenceEncoder.from_pretrained(str(folder), device="cpu", backend=backend, **options)


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_it_follows_the_reference(folder):
    reference, int8 = load(folder, "torch"), load(folder)
    texts = [*TEXTS, LONG]
    for kind in ("encode_queries", "encode_documents"):
        expected, found = getattr(reference, kind)(texts), getattr(int8, kind)(texts)
        assert cosines(expected, found).min() > 0.99
        assert cosines(np.roll(expected, 1, 0), found).min() < 0.99  # the bar above tells texts apart
        np.testing.assert_allclose(np.linalg.norm(expected, axis=1), np.linalg.norm(found, axis=1), rtol=0.05)
    assert int8.fingerprint == reference.fingerprint and int8.backend == "int8"


def test_what_shares_a_batch_changes_nothing(folder, threads):
    int8 = load(folder)
    texts = [*TEXTS, LONG] * 3
    together = int8.encode_documents(texts)
    alone = np.concatenate([int8.encode_documents([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(int8.encode_documents(texts, batch_size=2), alone, atol=1e-6)


def test_several_threads_may_call_at_once(folder, threads):
    int8 = load(folder)
    expected = int8.encode_documents([*TEXTS, LONG])
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: int8.encode_documents([*TEXTS, LONG]), range(8)):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_converted_weights_are_cached(folder, monkeypatch):
    expected = load(folder).encode_queries(TEXTS)

    def refuse(*_):
        raise AssertionError("the torch model was asked for")

    monkeypatch.setattr(TorchSentenceEngine, "__init__", refuse)
    np.testing.assert_array_equal(load(folder).encode_queries(TEXTS), expected)
    monkeypatch.setenv("RABTRIEVER_CACHE", "/dev/null/nowhere")
    with pytest.raises(AssertionError, match="asked for"):
        load(folder).encode_queries(TEXTS)


def test_from_the_cache_it_needs_no_transformers(folder):
    expected = load(folder).engine.weights.shape if hasattr(load(folder).engine, "weights") else None
    code = (
        "import sys\n"
        "from rabtriever.encoders.sentence import SentenceEncoder\n"
        f"encoder = SentenceEncoder.from_pretrained({str(folder)!r}, device='cpu', backend='int8')\n"
        "print(getattr(encoder.engine, 'weights', None) and encoder.engine.weights.shape)\n"
        "print([name for name in ('transformers', 'sentence_transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(expected), "[]"], done.stderr


def test_a_cache_that_cannot_be_written_costs_time_alone(bert, tmp_path, monkeypatch):
    expected = load(bert).encode_queries(TEXTS)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(load(bert).encode_queries(TEXTS), expected)


def test_windows_are_seen_in_both_directions(tokenizer, tmp_path):
    """The windowed layers of Gemma see four tokens either way, which a text of fifty tells from all."""
    models = {}
    for window in (8, 512):
        options = {"architecture": "gemma3_text", "config": {"sliding_window": window}, "max_length": 60}
        models[window] = save_sentence_model(tmp_path / f"window{window}", tokenizer, **options)
    narrow, wide = (load(models[window], "torch").encode_documents([LONG]) for window in (8, 512))
    found = load(models[8]).encode_documents([LONG])
    assert cosines(narrow, found)[0] > 0.99 > cosines(wide, found)[0]


def test_it_reads_beyond_the_positions_it_prepared(folder):
    reference, int8 = load(folder, "torch"), load(folder)
    if hasattr(int8.engine, "ropes"):
        int8.engine.ropes = [rope[:, :10] for rope in int8.engine.ropes]
    assert cosines(reference.encode_documents([LONG]), int8.encode_documents([LONG]))[0] > 0.99


def test_the_first_dimensions(bert):
    found, whole = load(bert, truncate_dim=8).encode_queries(TEXTS), load(bert).encode_queries(TEXTS)
    np.testing.assert_allclose(found, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)


def test_what_is_no_number_stays_none(bert):
    encoder = load(bert)
    bread = encoder.tokenizers["query"].tokenizer.encode(" bread", add_special_tokens=False).ids[-1]
    embeddings = encoder.engine.weights.embeddings
    embeddings[bread, 3] = np.inf
    with pytest.raises(TextError, match="query 1: 'cook bread' has an embedding that is NaN"):
        encoder.encode_queries(["rain", "cook bread"])


@pytest.mark.parametrize("gated", [False, True])
def test_gelu_is_torchs(gated):
    values = torch.cat([torch.linspace(-6, 6, 240), torch.tensor([-200.0, -30, -8, 0, 8, 30, 200, 1] * 2)])
    gate = torch.full_like(values, 0.5)
    rows, ones, scales = torch.cat([values, gate])[None].numpy(), np.ones(1, np.float32), np.empty(1, np.float32)
    codes, exact = np.empty((1, 256), np.uint8), ACT2FN["gelu_pytorch_tanh" if gated else "gelu"](values)

    @njit
    def run(rows, codes, scales):
        if gated:
            elementwise.gelu_gate(rows, 256, 1, ones, 1, codes, scales)
        else:
            elementwise.gelu(rows, np.zeros(256, np.float32), 1, ones, 1, codes, scales)

    run(rows, codes, scales)
    expected = (exact * gate if gated else exact).numpy()
    assert scales[0] == pytest.approx(expected.max() / 127, rel=1e-6)
    np.testing.assert_allclose((codes[0].astype(np.float32) - 128) * scales[0], expected, atol=scales[0] * 0.51)


def test_which_backend(bert, monkeypatch):
    monkeypatch.setattr("rabtriever.kernels.llvm.VNNI", True)
    assert load(bert, "auto").describe()["reason"] == "this CPU has AVX-512 VNNI"
    assert load(bert, "auto", dtype="float32").backend == "torch"
    monkeypatch.setattr("rabtriever.kernels.llvm.VNNI", False)
    assert load(bert, "auto").describe() | {"reason": "this CPU has no AVX-512 VNNI"} == load(bert, "auto").describe()
    assert load(bert, "int8").backend == "int8"  # slower, but right
    monkeypatch.setattr(sentence_engines.engines, "why_not_here", lambda device: "made for CPUs")
    assert load(bert, "auto").backend == "torch"
    with pytest.raises(InputError, match="backend 'int8': made for CPUs; use 'torch'"):
        load(bert)


@pytest.mark.parametrize(
    ("file", "settings", "fault"),
    [
        ("config.json", {"hidden_act": "relu"}, "made for hidden_act='gelu', not for 'relu'"),
        ("config.json", {"intermediate_size": 40}, "multiples of 16"),
        ("config.json", {"model_type": "deberta-v2"}, "made for bert, roberta"),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "not for max"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, "not for mean, cls"),
    ],
)
def test_models_that_it_would_read_wrongly_are_torchs(bert, tmp_path, file, settings, fault):
    folder = Path(shutil.copytree(bert, tmp_path / "model"))
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    model = find_sentence_model(str(folder))
    assert sentence_engines.choose_engine(model, "cpu", "auto", dtype_given=False)[0] == "torch"
    with pytest.raises(InputError, match=f"backend 'int8': .*{fault}"):
        sentence_engines.choose_engine(model, "cpu", "int8", dtype_given=False)
