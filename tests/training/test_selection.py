"""What dev queries decide."""

import torch

from rabtriever.training.selection import choose_share


def test_a_rerankers_share_is_what_ranks_best_and_ties_stay_near_the_default():
    right = torch.eye(4, dtype=torch.bool)
    good, bad = right.float(), right.float().roll(1, 1)
    assert choose_share(good, good, right) == 0.5
    assert choose_share(good, 3 * bad, right) == 0.0
    assert choose_share(3 * bad, good, right) == 1.0
    assert choose_share(2 * bad, 1.5 * good, right) == 0.75
