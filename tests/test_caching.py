from hypothesis import given
from hypothesis import strategies as st

from rabtriever.caching import LRUCache, cache_dir


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 5))), st.integers(0, 12))
def test_a_cache_holds_the_most_recently_used_values_that_fit(steps, capacity):
    recent, order = LRUCache(capacity), {}  # `order`: a plain model, the last used last
    for put, key, weight in steps:
        if put and weight <= capacity:
            order.pop(key, None)
            order[key] = weight
            while sum(order.values()) > capacity:
                order.pop(next(iter(order)))
        if put:
            recent.put(key, weight, weight)
        else:
            expected = order.get(key)
            if key in order:
                order[key] = order.pop(key)
            assert recent.get(key) == expected
        assert len(recent) == len(order)
    recent.clear()
    assert len(recent) == 0 and recent.get(0) is None


def test_the_folder_of_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RABTRIEVER_CACHE", "~/elsewhere")
    assert cache_dir() == tmp_path / "elsewhere"
    for unset in (lambda: monkeypatch.setenv("RABTRIEVER_CACHE", ""), lambda: monkeypatch.delenv("RABTRIEVER_CACHE")):
        unset()
        assert cache_dir() == tmp_path / ".cache" / "rabtriever"
