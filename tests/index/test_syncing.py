"""Sync: the index holds what was given, and nothing is encoded twice."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rabtriever.data import Document
from rabtriever.errors import ConflictError, InputError
from rabtriever.index import Index
from rabtriever.index.syncing import Changes
from rabtriever.scoring.layout import ScoreLayout

DOCUMENTS = [
    Document("a", "find the weather", "Weather", {"year": 2001, "tags": ["x", None, 1.5]}),
    Document("b'", "a recipe for bread"),
    Document("c", "turn the lamp light", "", {"k": {"z": 1, "a": True}}),
]


@pytest.fixture
def encoded(retriever, monkeypatch):
    """The texts that were encoded as documents."""
    texts = []
    encode = retriever.encode_document

    def counted(inputs, **options):
        texts.extend(inputs)
        return encode(inputs, **options)

    monkeypatch.setattr(retriever, "encode_document", counted)
    return texts


@pytest.fixture
def index(retriever, encoded, tmp_path):
    index = Index.build(tmp_path / "index", retriever, DOCUMENTS)
    encoded.clear()
    return index


def held(index):
    return {document.id: document for document in index.get([d.id for d in DOCUMENTS] + ["d"])}


def test_the_same_documents_cost_nothing_and_make_no_version(index, encoded):
    versions = index.versions()
    for delete in (False, True):
        assert index.sync(reversed(DOCUMENTS), delete) == Changes(0, 0, 0, 3, 0)
    assert not encoded and index.versions() == versions


def test_only_what_is_new_or_changed_is_encoded_in_one_version(index, encoded):
    before = len(index.versions())
    changed = [replace(DOCUMENTS[0], title="Rain"), replace(DOCUMENTS[1], text="rain"), Document("d", "bread")]
    assert index.sync(changed) == Changes(added=1, changed=2, removed=0, unchanged=0, missing=1)
    assert sorted(encoded) == ["Rain: find the weather", "bread", "rain"]
    assert held(index) == {document.id: document for document in [*changed, DOCUMENTS[2]]}
    assert len(index.versions()) == before + 1


@pytest.mark.parametrize("given", [[Document("d", "bread"), DOCUMENTS[2]], [DOCUMENTS[2]], []])
def test_what_was_not_given_goes_if_asked_in_one_version(index, encoded, given):
    before = len(index.versions())
    new = [document for document in given if document.id == "d"]
    assert index.sync(given, delete=True) == Changes(
        len(new), 0, 4 - len(given) - 1 + len(new), len(given) - len(new), 0
    )
    assert held(index) == {document.id: document for document in given}
    assert encoded == [document.content for document in new] and len(index.versions()) == before + 1


def test_changed_metadata_are_a_change(index):
    other = replace(DOCUMENTS[0], metadata={"year": 2002})
    assert index.sync([other, *DOCUMENTS[1:]]) == Changes(0, 1, 0, 2, 0)
    assert index.get(["a"]) == [other]


def test_a_bad_document_changes_nothing(index):
    for documents, kind in (
        ([DOCUMENTS[0], DOCUMENTS[0]], ConflictError),
        ([Document("d", "x"), Document("d", "x")], ConflictError),
        ([Document("d", "")], InputError),
    ):
        with pytest.raises(kind):
            index.sync(documents, delete=True)
    assert index.sync(DOCUMENTS) == Changes(0, 0, 0, 3, 0)


def test_a_synced_index_answers_as_one_that_was_built(index, retriever):
    new = [Document("d", "please show rain"), replace(DOCUMENTS[1], text="wipe the table")]
    index.sync(new, delete=True)
    index.optimize()
    built = Index.build(None, retriever, new)
    for mode in ("exact", "bm25"):
        found = index.search("show the table", mode=mode)
        assert found and [(hit.id, hit.log_odds) for hit in found] == [
            (hit.id, pytest.approx(hit.log_odds, abs=1e-4)) for hit in built.search("show the table", mode=mode)
        ]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.text(), st.dictionaries(st.text(), VALUES, max_size=3)), min_size=1, max_size=30))
def test_whatever_metadata_are_stored_they_are_not_changed(made):
    index = Index.create(None, _Constant())
    documents = [Document(f"{i}", f"x{text}", "", metadata) for i, (text, metadata) in enumerate(made)]
    assert index.sync(documents) == Changes(len(documents), 0, 0, 0, 0)
    assert index.sync(documents) == Changes(0, 0, 0, len(documents), 0)


class _Constant:
    """A retriever to which all texts are alike."""

    layout, fingerprint, name_or_path = ScoreLayout(1), "constant", None

    def encode_document(self, inputs):
        return np.zeros((len(inputs), 3), np.float32)
