import pytest
import torch
from training.teaching import contents

from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError
from rabtriever.rerankers.base import Scores
from rabtriever.scoring.fusion import COSINE_WEIGHT
from rabtriever.training.cached_teacher import CachedTeacher
from rabtriever.training.teacher import ENCODER_WEIGHT, Teacher, load_teachers

PAIRS = torch.tensor([[0, 1], [2, 5], [0, 0]])
LLM_OPTIONS = {"device": "cpu", "dtype": "float32", "backend": "torch"}


class WithoutStates:
    """A reranker that has no context embeddings."""

    has_states, numerics, adapter, group_by = False, "none", None, "document"

    def __init__(self, value=3.0):
        self.value, self.fingerprint, self.scored = value, f"constant {value}", 0

    def score(self, queries, documents, pairs, *, with_states=False, show_progress_bar=False):
        assert not with_states
        self.scored += len(pairs)
        return Scores(torch.tensor([self.value + d for _, d in pairs.tolist()]).numpy())


def test_default_weights_share_among_encoders_and_among_rerankers(sentence_encoders, teacher):
    both = list(sentence_encoders.values())
    alone, fused = Teacher.of(both), Teacher.of(both, [teacher, teacher])
    assert [weight for _, weight in alone.encoders] == [ENCODER_WEIGHT / 2] * 2 and not alone.rerankers
    assert [weight for _, weight in fused.encoders] == [COSINE_WEIGHT / 2] * 2
    assert [weight for _, weight in fused.rerankers] == [0.5, 0.5]
    assert not Teacher.of().encoders and not Teacher.of().rerankers


def test_an_llm_is_no_encoder_that_teaches(teacher):
    with pytest.raises(InputError, match="no similarity.*let it read pairs"):
        Teacher.of([LLMEncoder(teacher.llm)])


def test_rerankers_are_a_weighted_sum_and_the_states_are_of_the_one_that_has_any(tiny_data, teacher):
    queries, documents, other = list(tiny_data.queries.values()), contents(tiny_data), WithoutStates()
    live = teacher.score(queries, documents, PAIRS.numpy(), with_states=True)
    plain = torch.tensor([4.0, 8.0, 3.0])
    for order in ([(other, 0.5), (teacher, 2.0)], [(teacher, 2.0), (other, 0.5)]):
        cached = CachedTeacher(Teacher(rerankers=order), documents)
        log_odds, states = cached.read(queries, PAIRS)
        torch.testing.assert_close(log_odds, 2 * torch.from_numpy(live.log_odds) + 0.5 * plain, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states, torch.from_numpy(live.states), atol=1e-4, rtol=1e-4)
        w = cached.choice_direction(extra=False)
        torch.testing.assert_close(states @ w, 2 * torch.from_numpy(live.log_odds), atol=1e-3, rtol=1e-3)
        assert torch.equal(cached.choice_direction(extra=True), torch.cat([w, torch.ones(1)]))
    cached = CachedTeacher(Teacher(rerankers=[(other, 1.0)]), documents)
    log_odds, states = cached.read(queries, PAIRS)
    assert states.shape == (3, 0) and torch.equal(log_odds, plain)
    assert cached.choice_direction(extra=True).tolist() == cached.choice_direction(extra=False).tolist() == [1.0]


def test_what_was_paid_for_is_counted_and_never_asked_again(tiny_data):
    queries, documents, model = list(tiny_data.queries.values()), contents(tiny_data), WithoutStates()
    for known in (False, True):
        cached = CachedTeacher(Teacher(rerankers=[(model, 1.0)]), documents)
        cached.read(queries, PAIRS)
        cached.read(queries, PAIRS[:1])
        assert cached.calls == 4 and cached.new_calls == (0 if known else 3) and model.scored == 3


def test_encoders_states_are_cached(tiny_data, sentence_encoders, monkeypatch):
    queries, documents, encoder = list(tiny_data.queries.values()), contents(tiny_data), sentence_encoders["bert"]
    first = CachedTeacher(Teacher.of([encoder]), documents).similarities(queries)
    torch.testing.assert_close(first[0][1], torch.from_numpy(encoder.encode_queries(queries)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first[0][2], torch.from_numpy(encoder.encode_documents(documents)), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(type(encoder), "_encode", lambda *args: pytest.fail("encoded again"))
    again = CachedTeacher(Teacher.of([encoder]), documents).similarities(queries[::-1])
    assert torch.equal(again[0][1], first[0][1].flip(0)) and torch.equal(again[0][2], first[0][2])


def test_a_teacher_is_loaded_by_names(sentence_folders, llm_folder):
    names = [str(sentence_folders["bert"]), str(llm_folder)]
    loaded = load_teachers(names, preset="plain", **LLM_OPTIONS)
    assert [encoder.describe()["name"] for encoder, _ in loaded.encoders] == [names[0]]
    assert [reranker.has_states for reranker, _ in loaded.rerankers] == [True]
    assert not load_teachers([]).encoders
    for bad in ("nowhere", "owner/absent"):
        with pytest.raises(InputError, match=f"^{bad}: ") as caught:
            load_teachers([bad], local_files_only=True)
        assert "\n" not in str(caught.value)
