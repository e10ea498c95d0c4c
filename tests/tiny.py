"""What the tiny models of the tests have in common."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rabtriever.data import RetrievalData
from rabtriever.encoders.llm import LLMEncoder
from rabtriever.llm.backbone import MAX_KV_CACHE_BYTES
from rabtriever.llm.loading import load_llm
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import Rabtriever
from rabtriever.scoring.predictor import Predictor

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3_text", "mistral")
WORDS = (
    "Document: Query: Relevant? yes no tool weather rain wind city flight hotel recipe cook bread music song play "
    "light lamp turn sponge wipe table a the is of for me my your find show what where how please"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
TEMPLATE = PromptTemplate(document_tokens=24, query_tokens=24)


def make_reranker(folder: Path, template: PromptTemplate = TEMPLATE, **options: Any) -> GenerativeReranker:
    """A reranker on a saved LLM on the CPU, in float32 unless ``backend`` or ``dtype`` is given."""
    if "backend" not in options:
        options = {"dtype": torch.float32, **options}
    kv_cache_bytes = options.pop("kv_cache_bytes", MAX_KV_CACHE_BYTES)
    return GenerativeReranker(PromptedLLM(load_llm(str(folder), device="cpu", **options), template, kv_cache_bytes))


def make_retriever(reranker: GenerativeReranker, **caches: int) -> Rabtriever:
    """A retriever with a random predictor."""
    torch.manual_seed(0)
    llm = reranker.llm
    predictor = Predictor(llm.hidden_size, hidden_units=16, choice_direction=llm.choice_direction)
    for side in ("query", "document", "output"):
        predictor.fit_normalization(side, torch.randn(50, llm.hidden_size) * 2 + 1)
    return Rabtriever(LLMEncoder(llm), predictor, reranker=reranker, **caches)


def write_beir(folder: Path, data: RetrievalData) -> Path:
    """Writes a data set as a BEIR folder."""
    (folder / "qrels").mkdir(parents=True)
    rows = {
        "corpus": [{"_id": d.id, "title": d.title, "text": d.text} for d in data.documents.values()],
        "queries": [{"_id": query, "text": text} for query, text in data.queries.items()],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, qrels in data.qrels.items():
        lines = [f"{q}\t{d}\t{grade}\n" for q, grades in qrels.items() for d, grade in grades.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def chat_tokenizer(tokenizer: PreTrainedTokenizerFast, template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A copy with a chat template and the choices of all presets as tokens."""
    chat = copy.deepcopy(tokenizer)
    chat.add_tokens(["Yes", "No", "yes", "no", " yes", " no"])
    chat.chat_template = template
    return chat


def save_chat_llm(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Saves a tiny random Llama with a :func:`chat_tokenizer`."""
    shape = _shape(tokenizer) | {"num_key_value_heads": 2, "max_position_embeddings": 1024, "bos_token_id": 0}
    config = AutoConfig.for_model("llama", **shape, eos_token_id=1, pad_token_id=1)
    torch.manual_seed(0)
    _randomize(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_cross_encoder(folder: Path, tokenizer: PreTrainedTokenizerFast, num_labels: int = 1) -> Path:
    """Saves a tiny random BERT that classifies pairs."""
    shape = _shape(tokenizer) | {"max_position_embeddings": 64, "type_vocab_size": 2}
    config = AutoConfig.for_model("bert", **shape, num_labels=num_labels, pad_token_id=1)
    torch.manual_seed(0)
    _randomize(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
    pairs = copy.deepcopy(tokenizer)
    pairs.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    pairs.pad_token, pairs.model_max_length = "</s>", 64
    pairs.save_pretrained(folder)
    return folder


def _shape(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {"vocab_size": len(tokenizer), **size}


def _randomize(model: Any) -> Any:
    """Weights so large that texts do not look alike, as they do by the default initialisation."""
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model
