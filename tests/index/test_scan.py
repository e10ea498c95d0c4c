import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from rabtriever.index import kernels
from rabtriever.index.quantization import PRECISIONS, QuantizedLatents
from rabtriever.index.scan import propose, scan
from rabtriever.index.torch_scan import TorchLatents
from rabtriever.kernels import llvm as vectors
from rabtriever.scoring.fold import score_latents

shapes = st.tuples(st.integers(1, 200), st.integers(1, 21), st.one_of(st.none(), st.integers(0, 21)))
precisions = st.sampled_from(sorted(PRECISIONS))


def some(shape, seed, whole=False):
    """Queries (5, m + 1), documents (n, m + 1), all documents live, and positive."""
    n, m, positive = shape
    chance = np.random.default_rng(seed)
    spread = chance.gamma(0.5, 2, m + 1)
    arrays = [chance.standard_normal((rows, m + 1)) * spread for rows in (5, n)]
    arrays = [np.float32(chance.integers(-2, 3, array.shape) if whole else array) for array in arrays]
    live = np.zeros(-(-n // 64) * 64, np.uint8)
    live[:n] = 1
    return *arrays, live, None if positive is None else min(positive, m)


@settings(max_examples=60, deadline=None)
@given(shapes, precisions, st.integers(1, 250), st.booleans(), st.sampled_from([1, 2]), st.integers(0, 999))
def test_the_scan_is_a_full_sort(shape, precision, k, whole, threads, seed):
    queries, latents, live, positive = some(shape, seed, whole)  # whole numbers: many ties
    codes = QuantizedLatents.encode(latents, positive, precision)
    found = scan(queries, codes, latents, live, k, threads=threads)
    for row, (positions, log_odds) in zip(score_latents(queries, latents, positive), found, strict=True):
        expected = np.argsort(-row, kind="stable")[:k]
        np.testing.assert_array_equal(positions, expected)
        np.testing.assert_array_equal(log_odds, row[expected])


@settings(max_examples=60, deadline=None)
@given(shapes, precisions, st.integers(0, 999))
def test_codes_are_wrong_by_no_more_than_they_say(shape, precision, seed):
    queries, latents, live, positive = some(shape, seed)
    codes = QuantizedLatents.encode(latents, positive, precision)
    positions, scores, error = propose(codes, queries, live, len(latents))
    reference = np.take_along_axis(score_latents(queries, latents, positive), positions, 1)
    assert (np.abs(scores - reference) <= error[:, None]).all()
    if precision == "float32":
        np.testing.assert_allclose(scores, reference, atol=1e-4, rtol=1e-4)


def test_int8_is_close_and_float16_closer():
    queries, latents, live, positive = some((5000, 128, 60), 0)
    spread = score_latents(queries, latents, positive).std()
    errors = {
        precision: QuantizedLatents.encode(latents, positive, precision).prepare(queries).error.max()
        for precision in PRECISIONS
    }
    assert errors["float32"] < errors["float16"] < errors["int8"] < 0.3 * spread


@pytest.mark.parametrize("positive", [None, 3])
def test_a_search_with_few_candidates_asks_for_more(positive):
    queries, latents, live, positive = some((600, 8, positive), 0)
    latents = np.repeat(latents[:2], 300, axis=0) + np.float32(1e-6) * latents  # their codes cannot tell them apart
    codes = QuantizedLatents.encode(latents, positive, "int8")
    for row, (positions, _) in zip(
        score_latents(queries, latents, positive), scan(queries, codes, latents, live, 3), strict=True
    ):
        np.testing.assert_array_equal(positions, np.argsort(-row, kind="stable")[:3])


@settings(max_examples=20, deadline=None)
@given(shapes, precisions, st.integers(0, 999))
def test_only_what_is_live_is_found(shape, precision, seed):
    queries, latents, live, positive = some(shape, seed)
    live[:] *= np.random.default_rng(seed).integers(0, 2, len(live), np.uint8)
    codes = QuantizedLatents.encode(latents, positive, precision)
    kept = np.flatnonzero(live)
    for row, (positions, _) in zip(
        score_latents(queries, latents[kept], positive), scan(queries, codes, latents, live, 10), strict=True
    ):
        np.testing.assert_array_equal(positions, kept[np.argsort(-row, kind="stable")[:10]])


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
@pytest.mark.parametrize("positive", [None, 5])
def test_some_blocks_and_one_query_are_as_in_the_whole(precision, positive):
    queries, latents, live, positive = some((640, 16, positive), 0)
    codes = QuantizedLatents.encode(latents, positive, precision)
    blocks = np.array([1, 4, 9])
    there = np.isin(np.arange(640) // 64, blocks)
    positions, scores, _ = propose(codes, queries, live, 192, blocks)
    assert all(set(row) == set(np.flatnonzero(there)) for row in positions.tolist())
    for i in range(len(queries)):
        single, alone, _ = propose(codes, queries[i : i + 1], live, 192, blocks)
        np.testing.assert_array_equal(np.sort(alone[0]), np.sort(scores[i]))
        np.testing.assert_array_equal(np.sort(single[0]), np.sort(positions[i]))


@pytest.mark.parametrize("positive", [None, 5])
def test_without_the_instruction_for_bytes_the_kernel_is_the_same(monkeypatch, positive):
    queries, latents, _, positive = some((64, 16, positive), 0)
    codes = QuantizedLatents.encode(latents, positive, "int8")
    thresholds, weights, unit, *_ = codes.prepare(queries)

    def scores():
        @njit
        def run(blocks, thresholds, weights, unit, bias, found, top):
            kernels.block_scores(blocks, thresholds, weights, unit, bias, 0, 1, 2, found, top)

        found, top = np.empty((2, 64), np.float32), np.empty(2, np.float32)
        run(codes.blocks, thresholds, weights, unit, codes.bias, found, top)
        np.testing.assert_array_equal(top, found.max(1))
        return found

    before = scores()
    monkeypatch.setattr(vectors, "VNNI", False)
    np.testing.assert_array_equal(scores(), before)


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(1, 250), st.booleans(), st.integers(0, 999))
def test_torch_finds_what_the_kernel_finds(shape, k, whole, seed):
    queries, latents, live, positive = some(shape, seed, whole)
    live[:] *= np.random.default_rng(seed).integers(0, 4, len(live), np.uint8) > 0
    device, codes = TorchLatents(latents, positive, "cpu"), QuantizedLatents.encode(latents, positive, "float32")
    for a, b in zip(scan(queries, device, latents, live, k), scan(queries, codes, latents, live, k), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    blocks = np.arange(0, len(live) // 64, 2)
    found = device.propose(queries, live, 64, blocks)[0]
    expected = propose(codes, queries, live, 64, blocks)[0]
    assert [set(row[row >= 0]) for row in found] == [set(row[row >= 0]) for row in expected] or whole
