import pytest
import torch
from tiny import TEMPLATE

from rabtriever.llm.backbone import Backbone
from rabtriever.llm.loading import load_base
from rabtriever.llm.prompt import Prompt
from rabtriever.training import apart
from rabtriever.training.apart import Contrast, apart_batch, cosine
from rabtriever.training.mining import confusable_documents
from rabtriever.training.pools import positives


@pytest.fixture
def contrast(llm_folder):
    model, tokenizer = load_base(str(llm_folder))
    return Contrast(Backbone(model.float()), Prompt(TEMPLATE, tokenizer))


def test_an_epoch_reads_each_query_once_and_its_own_document(tiny_data, monkeypatch):
    monkeypatch.setattr(apart, "QUERIES", 4)
    right = positives(tiny_data)
    a_round = len(right) // 4
    batches = [apart_batch(tiny_data, right, step, 0) for step in range(a_round)]
    read = [query for batch in batches for query in batch.queries]
    assert len(read) == len(set(read)) == 4 * a_round
    for batch in batches:
        assert all(texts & set(batch.documents) for texts in batch.right)
    assert apart_batch(tiny_data, right, 1, 0) == batches[1]
    assert [query for query in apart_batch(tiny_data, right, a_round, 0).queries] != batches[0].queries


def test_candidates_are_this_batch_and_those_before(tiny_data, contrast, monkeypatch):
    monkeypatch.setattr(apart, "QUERIES", 3)
    right, seen = positives(tiny_data), set()
    for step in range(4):
        batch = apart_batch(tiny_data, right, step, 0)
        seen |= set(batch.documents)
        loss, scores, positive = contrast(batch)
        assert scores.shape == positive.shape == (3, len(seen))
        assert positive.any(1).all() and torch.isfinite(loss)
    assert set(contrast.memory) == seen
    monkeypatch.setattr(apart, "MEMORY", 2)
    contrast(batch)
    assert set(contrast.memory) <= set(batch.documents) and len(contrast.memory) <= 2


def test_both_sides_and_layers_below_the_middle_learn(tiny_data, contrast):
    batch = apart_batch(tiny_data, positives(tiny_data), 0, 0)
    contrast(batch)[0].backward()
    layers = contrast.backbone.decoder.layers
    assert all(layer.self_attn.q_proj.weight.grad.abs().sum() > 0 for layer in layers)
    states = contrast.backbone.mean_states(contrast.prompt.document_ids(batch.documents), 1.0)
    alone = contrast.backbone.states(contrast.prompt.document_ids(batch.documents), "mean")
    torch.testing.assert_close(states[:, 1].detach(), alone, atol=1e-5, rtol=1e-4)


def test_mined_negatives_are_the_nearest_wrong_documents(tiny_data, contrast):
    right = positives(tiny_data)
    neighbours = confusable_documents(tiny_data, right, contrast, count=3)
    assert set(neighbours) == {document for documents in right.values() for document in documents}
    states = {
        side: contrast.states(ids).detach()
        for side, ids in (
            ("query", contrast.prompt.query_ids([tiny_data.queries[query] for query in right], alone=True)),
            ("document", contrast.prompt.document_ids([d.content for d in tiny_data.documents.values()])),
        )
    }
    ids, scores = list(tiny_data.documents), cosine(states["query"], states["document"])[-1] / apart.TEMPERATURE
    for document, others in neighbours.items():
        votes = torch.zeros(len(ids))
        for query, row in zip(right, scores, strict=True):
            if document in right[query]:
                votes += row.softmax(0)
        ranked = [ids[i] for i in votes.argsort(descending=True).tolist() if ids[i] != document]
        assert others == ranked[:3]
