from hypothesis import given
from hypothesis import strategies as st

from rabtriever.caching import LRUCache


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 5))), st.integers(0, 12))
def test_it_keeps_what_was_used_last_as_far_as_it_fits(steps, capacity):
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
