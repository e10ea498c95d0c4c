"""The real default LLM and the model that ships."""

from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from rabtriever.data import load_data
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError
from rabtriever.evaluation import evaluate
from rabtriever.evaluation.judge import judge
from rabtriever.evaluation.lexical import lexical_index
from rabtriever.index import Index
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.fold import Fold, score_latents
from rabtriever.teachers import load_teacher

pytestmark = pytest.mark.slow
SHIPPED = sorted(path for path in (Path(__file__).parents[1] / "models").iterdir() if path.is_dir())
QUERIES = ["I knocked my soda over", "My landlord wrote me a letter in a language that I cannot read"]
DOCUMENTS = ["Fetches the sponge", "Translates text between a hundred languages", "Books flights"]


@pytest.fixture(autouse=True)
def _all_threads():
    torch.set_num_threads(torch.get_num_threads() if torch.get_num_threads() > 1 else 2)
    yield
    torch.set_num_threads(1)


def test_smollm2_reads_pairs_as_it_reads_whole_prompts():
    reranker = GenerativeReranker.from_pretrained("smollm2", dtype=torch.float32)
    llm = reranker.llm
    assert llm.loaded.tokenizer.convert_ids_to_tokens(list(llm.prompt.choice_ids)) == ["Ġyes", "Ġno"]
    cached = reranker.log_odds(QUERIES, DOCUMENTS)
    documents, queries = llm.prompt.document_ids(DOCUMENTS), llm.prompt.query_ids(QUERIES)
    whole = llm.backbone.states([document + query for query in queries for document in documents])
    np.testing.assert_allclose(cached.ravel(), (whole @ llm.choice_direction).numpy(), atol=1e-3)


@pytest.fixture(scope="module", params=SHIPPED, ids=lambda path: path.name)
def shipped(request):
    return Rabtriever.from_pretrained(request.param)


def test_the_shipped_fold_is_exact(shipped):
    z_q, z_d = shipped.encoder.encode_queries(QUERIES), shipped.encoder.encode_documents(DOCUMENTS)
    predicted = shipped.predictor(torch.from_numpy(z_q)[:, None], torch.from_numpy(z_d)[None])
    unfolded = predicted @ shipped.predictor.choice_direction
    fold = Fold(shipped.encoder.hidden_size, shipped.predictor.fold())
    folded = score_latents(fold.query(z_q), fold.document(z_d), fold.layout)
    np.testing.assert_allclose(folded, unfolded.detach().numpy(), atol=1e-3)


@pytest.mark.parametrize(("options", "most"), [({}, 1e-3), ({"dtype": torch.float32, "backend": "torch"}, 1e-5)])
def test_what_shares_a_batch_does_not_show_in_the_log_odds(options, most):
    reranker = GenerativeReranker.from_pretrained(SHIPPED[-1], **options)
    data = load_data(str(files("rabtriever") / "demo"))
    documents = [document.content for document in data.documents.values()]
    together = reranker.log_odds([*QUERIES, "tidy up"], documents)
    alone = [[reranker.log_odds([query], [document])[0, 0] for document in documents[:6]] for query in QUERIES]
    np.testing.assert_allclose(together[:2, :6], alone, atol=most, rtol=0)


def test_the_default_backend_preserves_the_log_odds():
    data = load_data(str(files("rabtriever") / "demo"))
    queries, documents = list(data.queries.values())[:6], [one.content for one in data.documents.values()][:40]
    exact, found = (
        GenerativeReranker.from_pretrained(SHIPPED[-1], **options).log_odds(queries, documents).ravel()
        for options in ({"dtype": torch.float32, "backend": "torch"}, {})
    )
    assert np.corrcoef(exact, found)[0, 1] >= 0.995


def test_the_shipped_model_solves_what_keywords_cannot(shipped, tmp_path):
    data = load_data(str(files("rabtriever") / "demo"))
    documents = list(data.documents.values())
    index = Index.build(tmp_path / "index", shipped, documents)
    bm25 = partial(lexical_index(documents).search, mode="bm25")
    report = evaluate(data, {"retriever": index.search, "bm25": bm25})
    assert report["systems"]["bm25"]["R@10"] == 0
    assert report["systems"]["retriever"]["R@1"] >= 0.15
    assert report["systems"]["retriever"]["R@10"] >= 0.45


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_it_fits_in_25_megabytes(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6


def test_judge_measures_the_trained_model_and_refuses_the_untrained_one():
    data, encoder = load_data(str(files("rabtriever") / "demo")), SentenceEncoder.from_pretrained("minilm")
    easier = dict(list(data.qrels["test"].items())[:40])
    report = judge(
        replace(data, qrels={"test": easier}), {"tools": load_teacher("tools")}, encoder, queries_limit=12, depth=6
    )
    assert report["teachers"]["tools"]["R@1"] >= 0.5 and report["encoder"]["R@depth"] >= 0.6
    with pytest.raises(InputError, match=r"smollm2: only \d+% of the answer's probability is on ' yes' and ' no'"):
        judge(data, {"smollm2": load_teacher("smollm2")}, encoder, queries_limit=4, depth=4)
