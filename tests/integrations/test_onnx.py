import json

import numpy as np
import onnxruntime
import pytest
import torch
from integrations.retrievers import QUERIES, make_retriever
from tokenizers import Tokenizer

from rabtriever.errors import ConflictError, InputError
from rabtriever.integrations.onnx import QueryPath, save_onnx

OPTIONS = [
    {},
    {"kind": "mlp"},
    {"kind": None},
    {"beta": 0.0},
    {"examples": 5},
    {"examples": 50, "new_gain": 1.0},
    {"adapted": True},
    {"kind": "mlp", "adapted": True, "examples": 5},
]


def padded(sequences):
    """Token ids and mask int64 (n, longest)."""
    longest = max(map(len, sequences))
    ids, mask = np.zeros((2, len(sequences), longest), np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
    return ids, mask


@pytest.mark.parametrize("options", OPTIONS)
def test_the_query_path_is_encode_query(sentence_encoders, options):
    encoder = sentence_encoders["bert"]
    retriever = make_retriever(encoder, **options)
    given = map(torch.from_numpy, padded(encoder.tokenizers["query"].ids(QUERIES)))
    with torch.no_grad():
        found = QueryPath(retriever, encoder).eval()(*given).numpy()
    np.testing.assert_allclose(found, retriever.encode_query(QUERIES), atol=1e-4)


def test_a_correction_that_does_not_count(sentence_encoders):
    encoder = sentence_encoders["mpnet"]
    retriever = make_retriever(encoder, "mlp", examples=50, adapted=True)
    retriever.correction = False
    given = map(torch.from_numpy, padded(encoder.tokenizers["query"].ids(QUERIES)))
    found = QueryPath(retriever, encoder).eval()(*given).detach().numpy()
    np.testing.assert_allclose(found, retriever.encode_query(QUERIES), atol=1e-4)


def test_onnxruntime_gives_the_latents(sentence_encoders, tmp_path):
    """Of one text and of several, of any length, tokenized by what lies beside the model."""
    retriever = make_retriever(sentence_encoders["bert"], examples=50)
    save_onnx(retriever, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.onnx",
        "tokenizer.json",
    ]
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    assert settings["layout"] == retriever.layout.to_dict()
    tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
    texts = [text for text in QUERIES if len(tokenizer.encode(text)) <= settings["max_tokens"]]
    for chosen in (texts, texts[:1]):
        ids, mask = padded([tokenizer.encode(settings["prompt"] + text).ids for text in chosen])
        (latents,) = session.run(["latent"], {"input_ids": ids, "attention_mask": mask})
        np.testing.assert_allclose(latents, retriever.encode_query(chosen), atol=1e-4)
    with pytest.raises(ConflictError):
        save_onnx(retriever, tmp_path / "model")


def test_an_llm_is_refused(retriever, tmp_path):
    with pytest.raises(InputError, match="its encoder is an LLM"):
        save_onnx(retriever, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
