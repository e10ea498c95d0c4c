from rabtriever.training.batches import Pools
from rabtriever.training.config import RerankerTrainingConfig

NEIGHBOURS = {"weather": ["sponge", "lamp"]}


def pools_of(data, neighbours=None, **settings):
    return Pools(data, RerankerTrainingConfig(**settings), neighbours or {})


def test_every_query_finds_its_positive_and_no_document_stands_twice(tiny_data):
    pools = pools_of(tiny_data, pool=4, queries=5, negatives=2)
    for step in range(20):
        pool = pools[step]
        assert pool.positive.shape == (len(pool.queries), 4)
        assert len(pool.queries) == len(set(pool.queries)) <= 5
        assert pool.positive.any(1).all()
        assert (pool.asked.sum(1) == 3).all() and pool.asked[pool.positive].all()
        assert len(set(pool.documents)) == 4
        for row, query in enumerate(pool.queries):
            words = query.split()
            assert [words[2] in document for document in pool.documents] == pool.positive[row].tolist()


def test_the_same_seed_gives_the_same_pools(tiny_data):
    first, second, other = (pools_of(tiny_data, pool=4, seed=seed) for seed in (0, 0, 1))
    assert [first[i].queries for i in range(9)] == [second[i].queries for i in (8, 7, 6, 5, 4, 3, 2, 1, 0)][::-1]
    assert [first[i].queries for i in range(9)] != [other[i].queries for i in range(9)]


def test_hard_negatives_come_from_the_neighbours(tiny_data):
    pools = pools_of(tiny_data, NEIGHBOURS, pool=3, hard=1.0)
    seen = [pools[step].documents for step in range(30)]
    first_is_weather = [
        documents for documents in seen if any("sponge" in d for d in documents) and any("lamp" in d for d in documents)
    ]
    assert len(first_is_weather) >= 30 / 6  # each time that a weather query comes first, both are in


def test_a_small_corpus_is_taken_whole(tiny_data):
    assert len(pools_of(tiny_data, pool=50)[0].documents) == 6


def test_a_query_reads_its_hardest_documents_of_the_pool(tiny_data):
    pools = pools_of(tiny_data, NEIGHBOURS, pool=6, hard=1.0, negatives=2)
    contents = {document: tiny_data.documents[document].content for document in ("sponge", "lamp")}
    for step in range(10):
        pool = pools[step]
        for query, positive, asked in zip(pool.queries, pool.positive, pool.asked, strict=True):
            if "weather" in query:
                read = {pool.documents[i] for i in (asked & ~positive).nonzero().flatten().tolist()}
                assert read == set(contents.values())
