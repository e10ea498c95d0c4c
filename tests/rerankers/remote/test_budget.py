import threading
import time

import pytest

from rabtriever.errors import InputError
from rabtriever.rerankers.remote.budget import Budget, Charge, LocalAccount, Stopped
from rabtriever.rerankers.remote.options import RemoteOptions


def make_budget(max_cost=None, **prices):
    return Budget(RemoteOptions(max_cost=max_cost, **prices or {"price_per_1000_requests": 1000.0}))


def test_both_prices_add_up():
    budget = make_budget(price_per_1000_requests=1000.0, price_per_million_tokens=1e6)
    with budget.charge(100) as charge:
        charge.tokens = 7
    assert budget.cost == pytest.approx(8)


def test_a_request_that_was_refused_costs_nothing():
    budget = make_budget()
    with budget.charge(1) as charge:
        charge.paid = False
    assert (budget.cost, budget.calls) == (0, 1)


def test_a_request_that_fails_on_its_way_may_have_been_paid():
    budget = make_budget()
    with pytest.raises(KeyError), budget.charge(1):
        raise KeyError
    assert budget.cost == 1


def test_the_cap_is_reached_exactly():
    budget = make_budget(0.3, price_per_1000_requests=100.0)
    for _ in range(3):
        with budget.charge(1):
            pass
    with pytest.raises(InputError, match="max_cost 0.3"), budget.charge(1):
        raise AssertionError("a request passed the cap")
    assert budget.calls == 3


def test_what_is_on_its_way_is_reserved_and_may_turn_out_cheaper():
    budget = make_budget(100.0, price_per_million_tokens=1e6)
    begun = threading.Event()

    def other():
        with budget.charge(80) as charge:
            begun.set()
            charge.tokens = 5

    with budget.charge(60) as charge:
        thread = threading.Thread(target=other)
        thread.start()
        assert not begun.wait(0.05), "60 and 80 bytes could be more than 100 tokens"
        charge.tokens = 10
    thread.join()
    assert begun.is_set() and budget.cost == pytest.approx(15)


def test_requests_in_flight_are_limited_and_those_of_the_dead_lapse():
    account = LocalAccount(RemoteOptions(concurrency=2, timeout=0.02, price_per_1000_requests=1000.0))
    first, second = account.reserve(1), account.reserve(1)
    assert not account.reserve(1).number
    account.settle(first.number, Charge())
    third = account.reserve(1)
    assert third.number not in (first.number, second.number) and not account.reserve(1).number
    time.sleep(0.12)
    assert account.reserve(1).number
    assert account.totals() == (3, 3, False)  # nobody knows whether the two were billed
    account.settle(second.number, Charge(paid=False))
    assert account.totals().cost == 3


def test_requests_start_at_the_rate():
    account = LocalAccount(RemoteOptions(concurrency=9, requests_per_minute=600))
    for _ in range(3):
        assert account.reserve(1).number
        number, wait = account.reserve(1)
        assert not number and wait == pytest.approx(0.1, abs=0.02)
        time.sleep(wait)
    account.pause(5)
    assert account.reserve(1).wait == pytest.approx(5, abs=0.1)


def test_a_pause_holds_for_those_who_wait_for_their_turn():
    budget, sent, started = Budget(RemoteOptions(concurrency=9, requests_per_minute=600)), [], time.monotonic()

    def send():
        with budget.charge(1):
            sent.append(time.monotonic() - started)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    budget.pause(0.6)
    for thread in threads:
        thread.join()
    assert sent[0] < 0.05 and sent[1] >= 0.6
    assert all(later - earlier > 0.09 for earlier, later in zip(sent[1:], sent[2:], strict=False))


def test_whoever_gives_up_before_its_turn_has_sent_nothing():
    account, stop = LocalAccount(RemoteOptions(requests_per_minute=1)), threading.Event()
    account.reserve(1)
    stop.set()
    with pytest.raises(Stopped), Budget(RemoteOptions(), account).charge(1, stop):
        raise AssertionError("sent")
    assert account.totals().calls == 0
