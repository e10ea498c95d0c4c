"""Rerankers that ask a stub server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_teacher import StubTeacher

from rabtriever.rerankers.remote import transport
from rabtriever.rerankers.remote.reranker import RemoteReranker


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubTeacher]:
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path))
    monkeypatch.delenv("RABTRIEVER_TEACHER_KEY", raising=False)
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.001)
    made = StubTeacher()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def tei(stub: StubTeacher) -> RemoteReranker:
    """A reranker that asks the stub in the simplest protocol."""
    return RemoteReranker.from_source(stub.source("tei"))
