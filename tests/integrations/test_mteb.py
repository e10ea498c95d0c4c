"""mteb measures what ``rabtriever evaluate`` measures."""

from pathlib import Path

import mteb
import numpy as np
import pytest
from integrations.retrievers import make_retriever
from mteb.models import CrossEncoderProtocol, EncoderProtocol

from rabtriever.cli.evaluate import make_systems
from rabtriever.data import Document, RetrievalData, load_data
from rabtriever.errors import InputError
from rabtriever.evaluation import evaluate
from rabtriever.integrations.mteb import MtebCrossEncoder, MtebEncoder, retrieval_task

NAMES = {"R@1": "recall_at_1", "R@3": "recall_at_3", "R@10": "recall_at_10", "nDCG@10": "ndcg_at_10"}


@pytest.fixture(scope="module")
def data():
    """The demo's task, with titles for some documents and several grades, as NFCorpus has."""
    demo = load_data(Path(__file__).parents[2] / "src" / "rabtriever" / "demo")
    documents = {
        d.id: Document(d.id, d.text, d.text.split()[0] if i % 2 else "") for i, d in enumerate(demo.documents.values())
    }
    queries = dict(list(demo.queries.items())[:60])
    ids, labels = list(documents), {}
    for i, query in enumerate(queries):
        labels[query] = {ids[(7 * i + j) % len(ids)]: grade for j, grade in enumerate((2, 1, 1, 0))}
    for i, query in enumerate(queries):  # copies of documents, of which one is relevant, as there
        copied = documents[ids[7 * i % len(ids)]]
        name = f"{'az'[i % 2]}{i}"
        documents[name] = Document(name, copied.text, copied.title)
        labels[query][name] = 1 - i % 2
        labels[query][copied.id] = i % 2
    return RetrievalData("demo", documents, queries, {"test": labels})


def scores_of(model, task, **options):
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False, **options)
    return result.task_results[0].scores["test"][0]


@pytest.mark.parametrize("kind", ["mlp", "quadratic"])
def test_an_encoder_has_the_same_quality(sentence_encoders, data, kind):
    retriever = make_retriever(sentence_encoders["bert"], kind)
    ours = evaluate(data, make_systems(["retriever"], data, retriever))["systems"]["retriever"]
    theirs = scores_of(MtebEncoder(retriever), retrieval_task(data))
    assert 0 < ours["nDCG@10"] < 1
    assert {name: theirs[their] for name, their in NAMES.items()} == pytest.approx(
        {name: ours[name] for name in NAMES}, abs=1e-4
    )


def test_a_reranker_has_the_same_quality(sentence_encoders, reranker, data, tmp_path):
    """It reads all documents, which the retriever found before."""
    data = RetrievalData("few", dict(list(data.documents.items())[:8]), dict(list(data.queries.items())[:5]), {})
    ids = list(data.documents)
    data.qrels["test"] = {query: {ids[i]: 1, ids[i + 2]: 1} for i, query in enumerate(data.queries)}
    ours = evaluate(data, make_systems(["reranker"], data, None, reranker))["systems"]["reranker"]
    scores_of(MtebEncoder(make_retriever(sentence_encoders["bert"])), retrieval_task(data), prediction_folder=tmp_path)
    task = retrieval_task(data).convert_to_reranking(tmp_path, top_k=len(ids))
    theirs = scores_of(MtebCrossEncoder(reranker), task)
    assert {name: theirs[their] for name, their in NAMES.items()} == pytest.approx(
        {name: ours[name] for name in NAMES}, abs=1e-4
    )


def test_a_querys_own_document_does_not_count(sentence_encoders):
    texts = ["find the weather", "play some music", "show the lamp"]
    documents = {str(i): Document(str(i), text) for i, text in enumerate(texts)}
    queries = {str(i): text for i, text in enumerate(texts)}
    labels = {str(i): {str(i): 1, str((i + 1) % 3): 1} for i in range(3)}
    data = RetrievalData("own", documents, queries, {"test": labels})
    retriever = make_retriever(sentence_encoders["bert"])
    ours = evaluate(data, make_systems(["retriever"], data, retriever))["systems"]["retriever"]
    theirs = scores_of(MtebEncoder(retriever), retrieval_task(data))
    assert theirs["recall_at_1"] == pytest.approx(ours["R@1"], abs=1e-4)


def test_protocols_names_and_pairs(sentence_encoders, reranker):
    retriever = make_retriever(sentence_encoders["bert"], "mlp")
    model = MtebEncoder(retriever, "ours/tiny")
    assert isinstance(model, EncoderProtocol) and isinstance(MtebCrossEncoder(reranker), CrossEncoderProtocol)
    assert model.mteb_model_meta.name == "ours/tiny"
    assert MtebEncoder(retriever).mteb_model_meta.name == "rabtriever/retriever"
    queries, documents = retriever.encode_query(["a lamp", "x"]), retriever.encode_document(["music", "a lamp"])
    pairwise = model.similarity_pairwise(queries, documents)
    np.testing.assert_array_equal(pairwise, model.similarity(queries, documents).diagonal())
    with pytest.raises(InputError, match="retrieval or reranking"):
        model.encode([{"text": ["a lamp"]}])


def test_what_moves_queries_alone_is_another_revision(sentence_encoders):
    """Or mteb's cache would give one retriever the other's results."""
    options = [{}, {"adapted": True}, {"examples": 5}, {"examples": 6}, {"adapted": True, "examples": 5}]
    made = [make_retriever(sentence_encoders["bert"], **of) for of in options]
    made.append(make_retriever(sentence_encoders["bert"]))
    made[-1].correction = False
    revisions = {MtebEncoder(one).mteb_model_meta.revision for one in made}
    assert len(revisions) == len(made)
    again = make_retriever(sentence_encoders["bert"], examples=5)
    assert MtebEncoder(again).mteb_model_meta.revision in revisions
