import json
import shutil

import numpy as np
import pytest
import torch

from rabtriever import load_reranker
from rabtriever.errors import InputError
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.persistence.folder import write_config
from rabtriever.rerankers.cross_encoder import CrossEncoderReranker
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.rerankers.remote.reranker import RemoteReranker

QUERIES = ["rain", "please show me the weather for my city"]
DOCUMENTS = ["find the weather", "a recipe", "turn the lamp light"]


def load(folder, **options):
    return load_reranker(folder, device="cpu", dtype=torch.float32, **options)


def test_what_is_there_decides(chat_folder, cross_encoder_folder, tmp_path):
    assert isinstance(load(cross_encoder_folder), CrossEncoderReranker)
    llm = load(chat_folder, preset="chat", task="Find tools.")
    assert isinstance(llm, GenerativeReranker) and "Find tools. Answer only" in llm.llm.template.document
    encoder = shutil.copytree(cross_encoder_folder, tmp_path / "encoder")
    (encoder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (encoder / "modules.json").write_text("[]")
    with pytest.raises(InputError, match="an encoder, which reads no pairs"):
        load(encoder)


def test_rerankers_that_sentence_transformers_saved(chat_folder, cross_encoder_folder, tmp_path):
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(cross_encoder_folder), device="cpu").save_pretrained(str(tmp_path / "pairs"))
    saved = load(tmp_path / "pairs")
    assert isinstance(saved, CrossEncoderReranker)
    np.testing.assert_allclose(
        saved.log_odds(QUERIES, DOCUMENTS), load(cross_encoder_folder).log_odds(QUERIES, DOCUMENTS), atol=1e-5
    )
    CrossEncoder(str(chat_folder), device="cpu").save_pretrained(str(tmp_path / "llm"))
    assert (tmp_path / "llm" / "modules.json").is_file()
    assert isinstance(load(tmp_path / "llm", preset="chat"), GenerativeReranker)


def test_a_server_is_named_by_its_protocol():
    server = load_reranker("chat+http://127.0.0.1:9/v1/chat/completions#tiny", task="Find tools.", query_name=None)
    assert isinstance(server, RemoteReranker) and server.options.task == "Find tools."
    assert server.options.query_name == "Query"


def test_a_saved_model_keeps_its_prompt(chat_folder, tmp_path):
    given = load(chat_folder, preset="chat", task="Find tools.")
    write_config(tmp_path, {"llm": str(chat_folder), "prompt": given.llm.template.to_dict()}, "saved")
    saved = load(tmp_path)
    assert saved.llm.template == given.llm.template and saved.fingerprint == given.fingerprint
    with pytest.raises(InputError, match="it was saved with its prompt"):
        load(tmp_path, preset="chat")


def test_a_cross_encoder_has_no_prompt(cross_encoder_folder):
    with pytest.raises(InputError, match="a cross-encoder has no prompt"):
        load(cross_encoder_folder, preset="chat")
    with pytest.raises(InputError, match="a cross-encoder has no prompt"):
        load(cross_encoder_folder, task="Find tools.")


def test_an_absent_model_is_named(tmp_path):
    with pytest.raises(InputError, match="no-model-here"):
        load(tmp_path / "no-model-here")


@pytest.mark.parametrize("backend", ["torch", "int8"])
@pytest.mark.parametrize("preset", ["chat", "qwen3-reranker", "bge-reranker-v2-gemma"])
def test_a_pair_is_scored_as_its_whole_prompt_is(chat_folder, preset, backend):
    """With the cache of what comes first, be it the document or the query."""
    options = {"backend": backend} if backend == "int8" else {"dtype": torch.float32}
    reranker = load_reranker(chat_folder, preset=preset, device="cpu", **options)
    log_odds = reranker.log_odds(QUERIES, DOCUMENTS)
    prompt, first = reranker.llm.prompt, reranker.llm.template.query_first
    model = reranker.llm.loaded.model.float()
    expected = np.empty_like(log_odds)
    for q, query in enumerate(prompt.query_ids(QUERIES, with_bos=first)):
        for d, document in enumerate(prompt.document_ids(DOCUMENTS, with_bos=not first)):
            ids = query + document if first else document + query
            with torch.inference_mode():
                yes, no = model(torch.tensor([ids])).logits[0, -1, list(prompt.choice_ids)]
            expected[q, d] = yes - no
    if backend == "torch":
        np.testing.assert_allclose(log_odds, expected, atol=1e-3)
    else:
        assert np.corrcoef(log_odds.ravel(), expected.ravel())[0, 1] > 0.98


def test_the_orders_fingerprint_differently_and_old_ones_stay(chat_folder):
    assert "query_first" not in PromptTemplate().to_dict()
    llm = load(chat_folder).llm
    turned = PromptTemplate(query_first=True)
    assert PromptedLLM(llm.loaded, turned).fingerprint != llm.fingerprint
