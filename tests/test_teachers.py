import pytest
import torch
from encoders.models import save_sentence_model

from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError
from rabtriever.rerankers.cross_encoder import CrossEncoderReranker
from rabtriever.teachers import is_encoder, load_teacher

OPTIONS = {"device": "cpu", "dtype": torch.float32}


def test_what_is_there_decides(chat_folder, cross_encoder_folder, tokenizer, tmp_path):
    """One preset for several teachers reaches the LLM alone."""
    prompt = {"preset": "chat", "task": "Find tools."}
    llm = load_teacher(str(chat_folder), **OPTIONS, **prompt)
    assert "Find tools." in llm.llm.template.document and not is_encoder(llm)
    assert isinstance(load_teacher(str(cross_encoder_folder), **OPTIONS, **prompt), CrossEncoderReranker)
    encoder = load_teacher(str(save_sentence_model(tmp_path / "encoder", tokenizer)), **OPTIONS, **prompt)
    assert isinstance(encoder, SentenceEncoder) and is_encoder(encoder)


def test_an_absent_model_is_named(tmp_path):
    with pytest.raises(InputError, match="no-model-here"):
        load_teacher(str(tmp_path / "no-model-here"))
