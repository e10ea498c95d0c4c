"""What labels decide."""

import pytest
import torch

from rabtriever.scoring.fusion import ZERO_SHOT_BETA
from rabtriever.training.encoded_data import EncodedQueries
from rabtriever.training.selection import WEAK_BETA, choose_beta, choose_share


def test_a_rerankers_share_is_what_ranks_best_and_ties_stay_near_the_default():
    right = torch.eye(4, dtype=torch.bool)
    good, bad = right.float(), right.float().roll(1, 1)
    assert choose_share(good, good, right) == 0.5
    assert choose_share(good, 3 * bad, right) == 0.0
    assert choose_share(3 * bad, good, right) == 1.0
    assert choose_share(2 * bad, 1.5 * good, right) == 0.75


def queries_near(documents: torch.Tensor, positives: list[list[int]], noise: float) -> EncodedQueries:
    """Queries whose embeddings are those of the first document right for them, or of document 0, and noise."""
    generator = torch.Generator().manual_seed(1)
    first = torch.tensor([of[0] if of else 0 for of in positives])
    states = documents[first] + noise * torch.randn(len(first), documents.shape[1], generator=generator)
    states = torch.nn.functional.normalize(states, dim=1)
    return EncodedQueries(["text"] * len(first), states, positives, torch.full((len(first),), -1))


@pytest.fixture
def documents() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)), dim=1)


def test_an_encoder_that_sees_no_link_starts_with_the_least_weight(documents: torch.Tensor):
    right, everything = [[i % 12] for i in range(300)], torch.ones(12, dtype=torch.bool)
    assert choose_beta(queries_near(documents, right, 0.1), documents, everything) == ZERO_SHOT_BETA
    blind = queries_near(documents, right, 0.1)
    shuffled = EncodedQueries(blind.texts, blind.states.roll(5, 0), right, blind.own_documents)
    assert choose_beta(shuffled, documents, everything) == WEAK_BETA


def test_the_weight_is_the_usual_one_without_labels_and_does_not_see_other_documents(documents: torch.Tensor):
    assert choose_beta(queries_near(documents, [[], []], 0.1), documents, torch.zeros(12, dtype=bool)) == ZERO_SHOT_BETA
    blind = queries_near(documents, [[0]] * 100, 0.0)
    blind = EncodedQueries(
        blind.texts, documents[torch.ones(100, dtype=torch.long)], blind.positives, blind.own_documents
    )
    nearer = (documents @ documents[1] < documents[0] @ documents[1]) | (torch.arange(12) == 0)
    assert choose_beta(blind, documents, torch.ones(12, dtype=torch.bool)) == WEAK_BETA
    assert choose_beta(blind, documents, nearer) == ZERO_SHOT_BETA


def test_many_right_documents_are_as_likely_as_their_sum(documents: torch.Tensor):
    """The likelihood is the training's own: one right document may take all of it."""
    near = queries_near(documents, [[0, 3, 4, 5, 6, 7]] * 100, 0.0)
    assert choose_beta(near, documents, torch.ones(12, dtype=torch.bool)) == ZERO_SHOT_BETA


def test_a_query_that_is_a_document_does_not_compete_with_itself(documents: torch.Tensor):
    own = torch.arange(6)
    queries = EncodedQueries(["text"] * 6, documents[own], [[i + 6] for i in range(6)], own)
    copies = torch.cat([documents[:6], documents[:6]])
    assert choose_beta(queries, copies, torch.ones(12, dtype=torch.bool)) == ZERO_SHOT_BETA
