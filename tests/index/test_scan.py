import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from rabtriever.index.quantization import PRECISIONS, QuantizedLatents
from rabtriever.index.scan import candidates, scan
from rabtriever.index.torch_scan import TorchLatents
from rabtriever.kernels import llvm
from rabtriever.kernels import scan as kernels
from rabtriever.scoring.fold import score_latents
from rabtriever.scoring.layout import ScoreLayout

sizes = st.integers(1, 200)
widths = st.integers(1, 21)
layouts = st.one_of(
    st.builds(ScoreLayout, widths),
    st.builds(lambda m, positive: ScoreLayout(0, min(m, positive), m - min(m, positive)), widths, st.integers(0, 21)),
    st.builds(ScoreLayout, widths, st.integers(0, 9), st.integers(1, 9)),
)
precisions = st.sampled_from(sorted(PRECISIONS))
INNER, RELU, MIXED = ScoreLayout(16), ScoreLayout(0, 5, 11), ScoreLayout(7, 5, 6)


def make(n, layout, seed, integers=False):
    """Queries (5, dim), documents (n, dim), and the mask of a segment whose documents are all live."""
    rng = np.random.default_rng(seed)
    spread = rng.gamma(0.5, 2, layout.dim)
    arrays = [rng.standard_normal((rows, layout.dim)) * spread for rows in (5, n)]
    arrays = [np.float32(rng.integers(-2, 3, array.shape) if integers else array) for array in arrays]
    arrays[1][:, -2] = rng.choice([0, 1, 4], n) if integers else rng.gamma(0.5, 2, n) * (rng.random(n) > 0.2)
    live = np.zeros(-(-n // 64) * 64, np.uint8)
    live[:n] = 1
    return *arrays, live


@settings(max_examples=60, deadline=None)
@given(sizes, layouts, precisions, st.integers(1, 250), st.booleans(), st.sampled_from([1, 2]), st.integers(0, 999))
def test_the_scan_is_a_full_sort(n, layout, precision, k, integers, threads, seed):
    queries, latents, live = make(n, layout, seed, integers)  # integers: many ties
    codes = QuantizedLatents.encode(latents, layout, precision)
    found = scan(queries, codes, latents, live, k, threads=threads)
    for row, (positions, log_odds) in zip(score_latents(queries, latents, layout), found, strict=True):
        expected = np.argsort(-row, kind="stable")[:k]
        np.testing.assert_array_equal(positions, expected)
        np.testing.assert_array_equal(log_odds, row[expected])


@settings(max_examples=20, deadline=None)
@given(sizes, precisions, st.integers(1, 250), st.booleans(), st.integers(0, 999))
def test_without_relu_columns_the_scan_is_a_full_sort_of_the_rest(n, precision, k, in_torch, seed):
    queries, latents, live = make(n, MIXED, seed)
    queries[:, MIXED.n_inner : -2] = -1e30
    made = TorchLatents(latents, MIXED, "cpu") if in_torch else QuantizedLatents.encode(latents, MIXED, precision)
    expected = score_latents(queries, latents, MIXED)
    np.testing.assert_array_equal(expected, score_latents(queries, latents, MIXED.inner))
    for row, (positions, log_odds) in zip(expected, scan(queries, made.inner, latents, live, k), strict=True):
        order = np.argsort(-row, kind="stable")[:k]
        np.testing.assert_array_equal(positions, order)
        np.testing.assert_array_equal(log_odds, row[order])
    positions, scores, error = candidates(made.inner, queries, live, n)
    assert (np.abs(scores - np.take_along_axis(expected, positions, 1)) <= error[:, None]).all()


@settings(max_examples=60, deadline=None)
@given(sizes, layouts, precisions, st.integers(0, 999))
def test_quantized_scores_err_by_no_more_than_the_bound(n, layout, precision, seed):
    queries, latents, live = make(n, layout, seed)
    codes = QuantizedLatents.encode(latents, layout, precision)
    positions, scores, error = candidates(codes, queries, live, n)
    reference = np.take_along_axis(score_latents(queries, latents, layout), positions, 1)
    assert (np.abs(scores - reference) <= error[:, None]).all()
    if precision == "float32":
        np.testing.assert_allclose(scores, reference, atol=1e-4, rtol=1e-4)


def test_int8_is_close_and_float16_closer():
    layout = ScoreLayout(0, 60, 68)
    queries, latents, _ = make(5000, layout, 0)
    latents[:, -2] = 1
    spread = score_latents(queries, latents, layout).std()
    errors = {
        precision: QuantizedLatents.encode(latents, layout, precision).quantize(queries).error.max()
        for precision in PRECISIONS
    }
    assert errors["float32"] < errors["float16"] < errors["int8"] < 0.3 * spread


@pytest.mark.parametrize("layout", [ScoreLayout(8), ScoreLayout(0, 3, 5), ScoreLayout(4, 3, 2)])
def test_a_search_with_few_candidates_asks_for_more(layout):
    queries, latents, live = make(600, layout, 0)
    latents = np.repeat(latents[:2], 300, axis=0) + np.float32(1e-6) * latents
    latents[:, -2] = np.repeat(latents[:2, -2], 300)  # their codes cannot tell them apart
    codes = QuantizedLatents.encode(latents, layout, "int8")
    for row, (positions, _) in zip(
        score_latents(queries, latents, layout), scan(queries, codes, latents, live, 3), strict=True
    ):
        np.testing.assert_array_equal(positions, np.argsort(-row, kind="stable")[:3])


@settings(max_examples=20, deadline=None)
@given(sizes, layouts, precisions, st.integers(0, 999))
def test_only_what_is_live_is_found(n, layout, precision, seed):
    queries, latents, live = make(n, layout, seed)
    live[:] *= np.random.default_rng(seed).integers(0, 2, len(live), np.uint8)
    codes = QuantizedLatents.encode(latents, layout, precision)
    rows = np.flatnonzero(live)
    for row, (positions, _) in zip(
        score_latents(queries, latents[rows], layout), scan(queries, codes, latents, live, 10), strict=True
    ):
        np.testing.assert_array_equal(positions, rows[np.argsort(-row, kind="stable")[:10]])


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("layout", [INNER, RELU, MIXED])
def test_some_blocks_and_one_query_are_as_in_the_whole(precision, layout):
    queries, latents, live = make(640, layout, 0)
    codes = QuantizedLatents.encode(latents, layout, precision)
    blocks = np.array([1, 4, 9])
    inside = np.isin(np.arange(640) // 64, blocks)
    positions, scores, _ = candidates(codes, queries, live, 192, blocks)
    assert all(set(row) == set(np.flatnonzero(inside)) for row in positions.tolist())
    for i in range(len(queries)):
        single, alone, _ = candidates(codes, queries[i : i + 1], live, 192, blocks)
        np.testing.assert_array_equal(np.sort(alone[0]), np.sort(scores[i]))
        np.testing.assert_array_equal(np.sort(single[0]), np.sort(positions[i]))


@pytest.mark.parametrize("layout", [INNER, RELU, MIXED])
def test_without_the_instruction_for_bytes_the_kernel_is_the_same(monkeypatch, layout):
    queries, latents, _ = make(64, layout, 0)
    codes = QuantizedLatents.encode(latents, layout, "int8")
    quantized = codes.quantize(queries)[:4]

    def scores():
        @njit
        def run(blocks, quantized, gain, bias, found, top):
            kernels.block_scores(blocks, quantized, gain, bias, 0, 1, 2, found, top)

        found, top = np.empty((2, 64), np.float32), np.empty(2, np.float32)
        run(codes.blocks, quantized, codes.gain, codes.bias, found, top)
        np.testing.assert_array_equal(top, found.max(1))
        return found

    before = scores()
    monkeypatch.setattr(llvm, "VNNI", False)
    np.testing.assert_array_equal(scores(), before)


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_a_gain_of_nothing_leaves_the_inner_product_alone(precision):
    queries, latents, live = make(300, MIXED, 0)
    latents[:, -2] = 0
    inner, plain = ScoreLayout(MIXED.n_inner), np.r_[: MIXED.n_inner, MIXED.width, MIXED.width + 1]
    codes = [
        QuantizedLatents.encode(latents, MIXED, precision),
        QuantizedLatents.encode(latents[:, plain], inner, precision),
    ]
    mixed, alone = (
        scan(queries, codes[0], latents, live, 300),
        scan(queries[:, plain], codes[1], latents[:, plain], live, 300),
    )
    for a, b in zip(mixed, alone, strict=True):
        np.testing.assert_array_equal(a.ordinals, b.ordinals)
        np.testing.assert_array_equal(a.log_odds, b.log_odds)


def test_importing_the_scan_imports_no_numba():
    code = "import sys, rabtriever.index.scan; print([name for name in ('numba', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@settings(max_examples=30, deadline=None)
@given(sizes, layouts, st.integers(1, 250), st.booleans(), st.integers(0, 999))
def test_torch_finds_what_the_kernel_finds(n, layout, k, integers, seed):
    queries, latents, live = make(n, layout, seed, integers)
    live[:] *= np.random.default_rng(seed).integers(0, 4, len(live), np.uint8) > 0
    device, codes = TorchLatents(latents, layout, "cpu"), QuantizedLatents.encode(latents, layout, "float32")
    for a, b in zip(scan(queries, device, latents, live, k), scan(queries, codes, latents, live, k), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    blocks = np.arange(0, len(live) // 64, 2)
    found = device.candidates(queries, live, 64, blocks)[0]
    expected = candidates(codes, queries, live, 64, blocks)[0]
    assert [set(row[row >= 0]) for row in found] == [set(row[row >= 0]) for row in expected] or integers
