"""What a router does with each way in which a replica's call can end, without a cluster."""

from types import SimpleNamespace

import pytest

from rabtriever.errors import InputError
from rabtriever.serving.errors import APIError

pytest.importorskip("ray.serve")

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError  # noqa: E402

from rabtriever.cluster import replicas  # noqa: E402
from rabtriever.cluster.replicas import ReplicatedShard  # noqa: E402


class Handle:
    """A deployment whose calls end in turn as a list says; the last for ever."""

    deployment_name = "shard-0"

    def __init__(self, *ends):
        self.ends, self.calls, self.cancelled = list(ends), [], 0

    def options(self, method_name):
        def remote(*args):
            self.calls.append((method_name, *args))
            return self

        return SimpleNamespace(remote=remote)

    def result(self, timeout_s):
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if isinstance(end, Exception):
            raise end
        return end

    def cancel(self):
        self.cancelled += 1


class Controller:
    def __init__(self, running=True):
        self.running, self.asked = running, 0

    def is_running(self, deployment):
        self.asked += 1
        return self.running


def shard(handle, running=True, timeout=60):
    return ReplicatedShard(handle, Controller(running), "shard 0 of 2", timeout)


def search(shard):
    return shard.search(["q"], None, None, 7)


def test_a_call_whose_replica_dies_is_made_again():
    handle = Handle(ActorDiedError(), ActorUnavailableError("restarts", None), "answer")
    assert search(shard(handle)) == "answer"
    assert handle.calls == [("search", ["q"], None, None, 7)] * 3


def test_what_is_wrong_with_a_search_is_raised_as_it_is_and_not_asked_again():
    handle = Handle(RayTaskError("search", "trace", InputError("where 'x': no such column", param="where")))
    with pytest.raises(InputError, match="where 'x': no such column") as caught:
        search(shard(handle))
    assert caught.value.param == "where" and len(handle.calls) == 1
    with pytest.raises(RayTaskError):
        search(shard(Handle(RayTaskError("search", "trace", ZeroDivisionError()))))


def test_a_slow_shard_is_waited_for_and_a_dead_one_is_not():
    assert search(shard(Handle(TimeoutError(), TimeoutError(), "answer"))) == "answer"
    handle = Handle(TimeoutError())
    with pytest.raises(APIError, match="shard 0 of 2 did not answer within 0.01 s") as caught:
        search(shard(handle, timeout=0.01))
    assert caught.value.status == 503 and caught.value.headers["Retry-After"] and handle.cancelled == 1
    for end in (TimeoutError(), ActorDiedError()):
        with pytest.raises(APIError, match="shard 0 of 2 has no live replica") as caught:
            search(shard(Handle(end), running=False))
        assert caught.value.status == 503


def test_while_a_shard_is_known_to_be_dead_nothing_is_sent():
    handle = Handle(TimeoutError(), "answer")
    one = shard(handle, running=False)
    for _ in range(3):
        with pytest.raises(APIError, match="no live replica"):
            search(one)
    assert len(handle.calls) == 1
    one._controller.running = True
    assert search(one) == "answer" and search(one) == "answer"
    assert len(handle.calls) == 3


def test_calls_that_fail_for_ever_end(monkeypatch):
    monkeypatch.setattr(replicas, "RETRY_SECONDS", 0)
    with pytest.raises(APIError, match="did not answer within"):
        search(shard(Handle(ActorDiedError()), timeout=0.05))
