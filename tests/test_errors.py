"""Texts that no tokenizer takes are named, wherever they are given."""

import pickle

import numpy as np
import pytest

from rabtriever import errors
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.errors import InputError, TextError, check_texts
from rabtriever.rerankers.cross_encoder import CrossEncoderReranker
from rabtriever.retriever import Rabtriever

HALF = "x \ud83d"


def test_positions_count_in_the_given_list():
    check_texts("query", ["a", "", HALF], [0])
    for position, fault in ((1, "no tokens"), (2, "holds half of a surrogate pair; write the character whole")):
        with pytest.raises(TextError, match=fault) as raised:
            check_texts("query", ["a", "", HALF], [position])
        assert raised.value.position == position
        str(raised.value).encode()  # it can be printed


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, InputError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_travels_between_processes(kind):
    is_text = kind is TextError
    error = (
        kind("query", 3, HALF, "has no tokens") if is_text else kind("it: wrong; correct it", param="it", position=3)
    )
    made = pickle.loads(pickle.dumps(error))
    assert type(made) is kind and str(made) == str(error) and vars(made) == vars(error)


def test_half_an_emoji_is_an_input_error_of_every_model(retriever, reranker, cross_encoder_folder, sentence_encoders):
    cross_encoder = CrossEncoderReranker.from_pretrained(cross_encoder_folder)
    over_encoder = Rabtriever(sentence_encoders["bert"])
    pairs = np.array([[0, 1]])
    for call in (
        lambda: retriever.encode_query(["a", HALF]),
        lambda: retriever.encode_document(["a", HALF]),
        lambda: retriever.rank("a", ["a", HALF]),
        lambda: over_encoder.encode_query(["a", HALF]),
        lambda: over_encoder.encode_document(["a", HALF]),
        lambda: LLMEncoder(reranker.llm).count_tokens("document", ["a", HALF]),
        lambda: over_encoder.encoder.count_tokens("document", ["a", HALF]),
        lambda: reranker.predict([("a", "a"), ("a", HALF)]),
        lambda: reranker.score(["a"], ["a", HALF], pairs),
        lambda: cross_encoder.score(["a"], ["a", HALF], pairs),
    ):
        with pytest.raises(TextError, match=r" 1: .x .ud83d. holds half of a surrogate pair"):
            call()
