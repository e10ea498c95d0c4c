import numpy as np
import pytest

from rabtriever.data import Document
from rabtriever.errors import InputError, TextError
from rabtriever.index import Hit, Index, SearchOptions
from rabtriever.index.search import RerankPlan, cut_hits
from rabtriever.rerankers.base import Scores
from rabtriever.scoring.calibration import Calibration
from rabtriever.scoring.refusal import Refusal

WORDS = "weather flight recipe music lamp sponge hotel city bread song".split()
QUERIES = ["rain", "cook bread", "turn the light"]


@pytest.fixture
def index(retriever, tmp_path):
    documents = [Document(f"d{i}", f"find the {word} for me", word) for i, word in enumerate(WORDS)]
    return Index.build(tmp_path / "index", retriever, [*documents, Document("again", "find the lamp for me", "lamp")])


class Fixed:
    """A reranker whose log-odds are a function of the texts."""

    fingerprint = "fixed"

    def __init__(self, score, calibration=None):
        self.scored = []
        self._score, self.calibration = score, calibration or Calibration()

    def score(self, queries, documents, pairs, *, with_states=False, show_progress_bar=False):
        texts = [(queries[q], documents[d]) for q, d in pairs]
        self.scored += texts
        return Scores(np.array([self._score(*text) for text in texts], np.float32))


def by_length(query, document):
    return len(document) - 20


def ids(hits):
    return [hit.id for hit in hits]


def assert_one_ranking(hits):
    for name in ("log_odds", "probability"):
        values = [getattr(hit, name) for hit in hits]
        assert values == sorted(values, reverse=True)
    for a in hits:
        assert all((a.log_odds, a.probability) == (b.log_odds, b.probability) for b in hits if a.text == b.text)


def test_rerank_is_the_rerankers_order_if_it_scores_all_hits(index, retriever):
    for query, hits in zip(QUERIES, index.search(QUERIES, k=11, rerank=11), strict=True):
        log_odds = retriever.reranker.log_odds([query], [hit.text for hit in hits])[0]
        np.testing.assert_allclose([hit.log_odds for hit in hits], log_odds, atol=1e-4)
        assert len(hits) == 11 and all(hit.reranked for hit in hits)
        assert_one_ranking(hits)
    assert index.search(QUERIES, k=3, rerank=11) == [hits[:3] for hits in index.search(QUERIES, k=11, rerank=11)]


def test_reranking_one_hit_can_change_the_order(index):
    first, second, *_ = index.search("rain", k=11)
    down = Fixed(lambda query, document: -100.0)
    hits = index.search("rain", k=11, rerank=1, reranker=down)
    assert down.scored == [("rain", first.text)]
    assert hits[0] == second and hits[-1].id == first.id
    assert [hit.reranked for hit in hits] == [False] * 10 + [True]


@pytest.mark.parametrize("calibrations", [(1, 0, 1, 0), (2, -3, 0.5, 1), (0.3, 2, 4, -1)])
@pytest.mark.parametrize("rerank", [1, 4, 11, 30])
def test_reranked_hits_are_one_list_on_one_scale(index, retriever, monkeypatch, calibrations, rerank):
    for name in ("calibration", "reranked_calibration"):
        monkeypatch.setattr(retriever, name, Calibration(*calibrations[:2]))
    reranker = Fixed(by_length, Calibration(*calibrations[2:]))
    plain = {hit.id: hit for hit in index.search("rain", k=11)}
    hits = index.search("rain", k=11, rerank=rerank, reranker=reranker)
    assert_one_ranking(hits)
    for hit in hits:
        assert hit.probability == pytest.approx(float(retriever.calibration.probability(hit.log_odds)))
        if hit.reranked:
            expected = reranker.calibration.probability(by_length("rain", hit.text))
            assert hit.probability == pytest.approx(float(expected), abs=1e-5)
        else:
            assert hit == plain[hit.id]
    for threshold in (0.0, 0.2, 0.5, 0.9, 1.0):
        kept = index.search("rain", k=11, rerank=rerank, reranker=reranker, threshold=threshold)
        assert kept == [hit for hit in hits if hit.probability >= threshold]


def test_equal_texts_are_scored_once_and_all_have_that_score(index):
    reranker = Fixed(by_length)
    order = ids(index.search("lamp", k=11))
    assert order.index("again") == order.index("d4") + 1
    depth = order.index("d4") + 1  # "again" comes after the last hit that is reranked
    hits = {hit.id: hit for hit in index.search("lamp", k=11, rerank=depth, reranker=reranker)}
    assert len(set(reranker.scored)) == len(reranker.scored) == depth
    assert hits["again"].log_odds == hits["d4"].log_odds and hits["again"].reranked
    equal = index.search("lamp", k=11, rerank=11, reranker=Fixed(lambda query, document: 0.0))
    assert ids(equal) == order  # ties stay as they were


def test_a_plan_holds_each_pair_of_several_queries_once():
    hit = {name: Hit(name, 0.5, 0.0, f"text {name[0]}", {}) for name in ("a", "a2", "b", "c")}
    plan = RerankPlan(
        ["x", "y"], [[hit["a"], hit["a2"], hit["b"]], [hit["b"], hit["c"], hit["a"]]], SearchOptions(3, rerank=2)
    )
    assert [(plan.queries[q], plan.documents[d]) for q, d in plan.pairs] == [
        ("x", "text a"),
        ("y", "text b"),
        ("y", "text c"),
    ]
    found = plan.apply(np.array([-1, 2, 3], np.float32), Calibration(), Student(Calibration(), 1.0))
    assert [ids(of_query) for of_query in found] == [["b", "a", "a2"], ["c", "b", "a"]]
    assert plan.ids == ["a", "b", "c"]


class Student:
    """As much of a retriever as reranking needs."""

    def __init__(self, calibration, rerank_share):
        self.calibration = self.reranked_calibration = calibration
        self.rerank_share = rerank_share


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_hit_that_was_reranked_has_the_weighted_sum_of_both_scores_on_the_retrievers_scale(share):
    own, others = Calibration(2.0, -1.0), Calibration(0.5, 3.0)
    log_odds = {"a": 4.0, "b": 3.0, "c": 1.0}
    hits = [Hit(name, float(own.probability(value)), value, name, {}) for name, value in log_odds.items()]
    plan = RerankPlan(["x"], [hits], SearchOptions(3, rerank=2))
    found = {hit.id: hit for hit in plan.apply(np.array([-9.0, 7.0], np.float32), others, Student(own, share))[0]}
    converted = own.convert(np.array([-9.0, 7.0]), others)
    for name, score in zip("ab", converted, strict=True):
        expected = share * float(score) + (1 - share) * log_odds[name]
        assert found[name].log_odds == pytest.approx(expected, rel=1e-6) and found[name].reranked
        assert found[name].probability == pytest.approx(float(own.probability(expected)), rel=1e-6)
    assert found["c"] == hits[2]
    assert list(found) == sorted(found, key=lambda name: -found[name].log_odds)


def test_without_a_reranker_rerank_is_refused(index, retriever, monkeypatch):
    monkeypatch.setattr(retriever, "_reranker", None)
    with pytest.raises(InputError, match="the retriever has no reranker; give one"):
        index.search("rain", rerank=3)
    assert index.search("rain", rerank=3, reranker=Fixed(by_length))[0].reranked


def test_a_query_that_becomes_nan_is_named(index, retriever, monkeypatch):
    vectors = retriever.encode_query(QUERIES)
    vectors[1, 3] = np.nan
    monkeypatch.setattr(retriever, "encode_query", lambda texts: vectors)
    with pytest.raises(InputError, match="query 'cook bread': its latent is NaN") as caught:
        index.search(QUERIES)
    assert caught.value.position == 1 and caught.value.param == "query"

    def encode(texts):
        raise TextError("query", 2, texts[2], "is not finite")

    monkeypatch.setattr(retriever, "encode_query", encode)
    with pytest.raises(InputError, match="query 'turn the light' is not finite"):
        index.search(QUERIES)


@pytest.mark.parametrize("broken", ["encoder", "latents"])
def test_a_document_that_becomes_nan_is_named_and_not_added(index, retriever, monkeypatch, broken):
    encode = retriever.encode_document

    def fails(texts):
        if broken == "encoder":
            raise TextError("document", 1, texts[1], "is not finite")
        latents = encode(texts)
        latents[1, 0] = np.inf
        return latents

    monkeypatch.setattr(retriever, "encode_document", fails)
    with pytest.raises(InputError, match=r"document 'e1'.*(not finite|NaN or infinite)"):
        index.add([Document("e0", "wind"), Document("e1", "snow")])
    assert len(index) == 11


@pytest.mark.parametrize("raises", [False, True])
def test_a_pair_that_becomes_nan_is_named(index, raises):
    bad = index.search(QUERIES, k=3)[2][1]

    class Broken(Fixed):
        def score(self, queries, documents, pairs, **options):
            scores = super().score(queries, documents, pairs)
            row = np.flatnonzero(~np.isfinite(scores.log_odds))[0]
            if raises:
                raise TextError("document", int(pairs[row, 1]), documents[pairs[row, 1]], "is not finite")
            return scores

    reranker = Broken(lambda *pair: np.nan if pair == (QUERIES[2], bad.text) else 0.0)
    with pytest.raises(InputError, match=f"document '{bad.id}'.*(finite|NaN)"):
        index.search(QUERIES, k=3, rerank=3, reranker=reranker)


@pytest.mark.parametrize("broken", ["encode", "encode_with_prefix"])
def test_an_llm_that_makes_nan_is_named_with_the_text(index, retriever, monkeypatch, broken):
    engine = retriever.reranker.llm.backbone.engine
    whole = getattr(engine, broken)

    def fails(*args):
        states = whole(*args)
        states[-1] = np.nan
        return states

    monkeypatch.setattr(engine, broken, fails)
    if broken == "encode":
        with pytest.raises(InputError, match="^query 'a new one' makes"):
            index.search("a new one")
        with pytest.raises(InputError, match="^add: document 'e0': 'snow' makes"):
            index.add([Document("e0", "snow")])
    else:
        (best,) = index.search("rain", k=1)
        with pytest.raises(InputError, match=f"^document '{best.id}': '{best.text}' with query 0 'rain' makes"):
            index.search("rain", k=1, rerank=1)


def test_long_texts_are_cut_in_messages(index, retriever, monkeypatch):
    monkeypatch.setattr(retriever, "encode_query", lambda texts: np.full((1, 17), np.nan, np.float32))
    with pytest.raises(InputError) as caught:
        index.search("word " * 1000)
    assert len(str(caught.value)) < 160


def test_bm25_ranks_by_shared_words_and_gives_the_retrievers_log_odds(index):
    everything = {hit.id: hit.log_odds for hit in index.search("lamp weather", k=100)}
    hits = index.search("lamp weather", k=100, mode="bm25")
    assert set(ids(hits)) == {"d0", "d4", "again"}
    assert all(hit.log_odds == everything[hit.id] for hit in hits)
    assert [identifier for identifier in ids(hits) if identifier != "d0"] == ["d4", "again"]
    assert ids(index.search("lamp", k=1, mode="bm25")) == ["d4"]
    assert index.search("weather", k=3, mode="bm25", where="id <> 'd0'") == []


def test_bm25_needs_a_text_index(retriever, tmp_path):
    bare = Index.create(tmp_path / "bare", retriever)
    with pytest.raises(InputError, match="no text index yet; call optimize"):
        bare.search("rain", mode="bm25")


def test_bm25_finds_documents_that_were_added_since_the_last_optimize_and_can_be_reranked(index):
    index.optimize()
    index.add([Document("late", "a gramophone song")])
    assert ids(index.search("gramophone", k=5, mode="bm25")) == ["late"]
    hits = index.search("song gramophone", k=5, mode="bm25", rerank=2, reranker=Fixed(by_length))
    assert len(hits) == 2
    assert_one_ranking(hits)


def test_cut_takes_the_first_of_those_that_reach_the_threshold():
    hits = [[Hit(str(p), p, 0.0, "", {}) for p in (0.9, 0.1, 0.5, 0.4)]]
    assert [hit.probability for hit in cut_hits(hits, SearchOptions(2, threshold=0.4))[0]] == [0.9, 0.5]
    assert cut_hits(hits, SearchOptions(2)) == [hits[0][:2]]


@pytest.mark.parametrize("mode", ["exact", "bm25"])
def test_a_probability_does_not_depend_on_how_many_hits_are_returned(index, retriever, monkeypatch, mode):
    monkeypatch.setattr(retriever, "calibration", Calibration(0.5, 0.0, 1.0))
    query = "find the weather and cook bread"
    few, all_ = index.search(query, k=1, mode=mode), index.search(query, k=10, mode=mode)
    assert few == all_[:1] and len(all_) > 1
    alone = Calibration(0.5, 0.0).probability(few[0].log_odds)
    assert few[0].probability < alone and sum({hit.log_odds: hit.probability for hit in all_}.values()) <= 1


def test_where_nothing_fits_there_is_no_hit_and_the_closest_is_named(index, retriever, monkeypatch):
    best = [hits[0].log_odds for hits in index.search(QUERIES, k=1)]
    limit = sorted(best)[1]
    monkeypatch.setattr(retriever, "refusal", Refusal(500, {0.05: limit}))
    found = index.search(QUERIES, k=3, refuse=0.05)
    for hits, plain, value in zip(found, index.search(QUERIES, k=3), best, strict=True):
        assert hits == ([] if value < limit else plain)
        assert hits.closest == (plain[0] if value < limit else None)
    assert [bool(hits) for hits in found].count(False) == 1
    assert index.search(QUERIES[0], refuse=0.05) == index.search(QUERIES, refuse=0.05)[0]
    reranked = index.search(QUERIES, refuse=0.05, rerank=3, reranker=Fixed(lambda query, document: 1.0))
    assert [hits.closest for hits in reranked] == [hits.closest for hits in found]  # it has no say


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"refuse": 0.05}, "no requests that people labelled"),
        ({"refuse": 0.0}, "between 0 and 1"),
        ({"refuse": 0.05, "mode": "encoder"}, "choose another mode"),
        ({"refuse": 0.05, "mode": "bm25"}, "choose another mode"),
    ],
)
def test_a_promise_that_cannot_be_given_is_refused(index, options, fault):
    with pytest.raises(InputError, match=fault):
        index.search("rain", **options)


def test_reranked_hits_are_those_that_were_retrieved_for_it(index):
    """Further hits are read as rivals in probabilities alone: they never displace a reranked one."""
    hits = index.search("rain", k=2, rerank=2, reranker=Fixed(lambda query, document: -100.0))
    assert set(ids(hits)) == set(ids(index.search("rain", k=2))) and all(hit.reranked for hit in hits)
