import pytest
import torch

from rabtriever.kernels.relu_scores import relu_scores


def reference(a, b, v):
    return torch.relu(a[:, None] + b) @ v


@pytest.mark.parametrize(("n", "k", "m"), [(3, 5, 7), (64, 33, 256), (1, 1, 1), (2, 0, 4), (0, 3, 4)])
def test_scores_and_derivatives_are_torchs(n, k, m):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(*shape, generator=generator) for shape in ((n, m), (k, m), (m,))]
    weights = torch.randn(n, k, generator=generator)
    results = []
    for function in (relu_scores, reference):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        scores = function(*leaves)
        (scores * weights).sum().backward()
        results.append((scores.detach(), *(leaf.grad for leaf in leaves)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_views_are_read_as_they_are():
    a, b, v = torch.randn(6, 8).T, torch.randn(8, 6)[::2], torch.randn(12)[::2]
    torch.testing.assert_close(relu_scores(a, b, v), reference(a, b, v), atol=1e-5, rtol=1e-5)


def test_no_derivative_where_none_is_wanted():
    with torch.no_grad():
        assert not relu_scores(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(2, requires_grad=True)).requires_grad
