"""The model card, README.md beside the weights: data, licence, measures, prompt, limits, a snippet that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CARD = "README.md"
ALIASES = {  # hub ids and licences
    "smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0"),
    "minilm": ("sentence-transformers/all-MiniLM-L6-v2", "Apache-2.0"),
    "mpnet": ("sentence-transformers/all-mpnet-base-v2", "Apache-2.0"),
}
TRAINING_KEYS = ("training", "teachers", "teacher_calls", "training_before", "teacher", "encoder_tuning", "fusion")

RETRIEVER_SNIPPET = """from rabtriever import Document, Index, Rabtriever

retriever = Rabtriever.from_pretrained({name})
documents = [Document("sponge", "Fetches the kitchen sponge."), Document("lamp", "Switches the bedside lamp on.")]
index = Index.build(None, retriever, documents)  # in memory; give a folder to keep it
for hit in index.search("I knocked my soda over", k=2, rerank=2):
    print(f"{{hit.probability:.0%}} {{hit.id}}")
"""

RERANKER_SNIPPET = """from rabtriever import load_reranker

reranker = load_reranker({name})
for hit in reranker.rank("I knocked my soda over", ["Fetches the kitchen sponge.", "Switches the bedside lamp on."]):
    print(f"{{hit['score']:.0%}} document {{hit['corpus_id']}}")
"""


def model_card(config: Mapping[str, Any], name: str) -> str:
    """Returns a model's card as Markdown.

    Args:
        config: Its configuration as it is saved, without absolute paths. Besides what a model must have, it may hold
            ``data`` (names of data sets, joined by ``+``), ``datasets`` (of each: ``name``, ``license``, ``url``),
            ``license``, ``language``, ``measures`` (row -> measure -> value), ``training`` and ``teacher``.
        name: What the snippet loads the model by.
    """
    retriever = "encoder" in config
    kind = "retriever" if retriever else "reranker"
    what = (
        "Encodes queries and documents separately; a predictor corrects the encoder's similarity by what its teachers "
        "would say of the pair."
        if retriever
        else "Reads a document and a query together and answers whether the document is right."
    )
    training = {key: config[key] for key in TRAINING_KEYS if key in config}
    snippet = (RETRIEVER_SNIPPET if retriever else RERANKER_SNIPPET).format(name=json.dumps(name))
    parts = [
        _front_matter(config, retriever),
        f"# {name}\nA {kind} made with [rabtriever](https://arxiv.org/abs/2604.23336). {what}",
        f"## Use\n```python\n{snippet}```",
        f"## Data and licence\n{_data(config)}",
        *([f"## Measures\n{_table(config['measures'])}"] if config.get("measures") else []),
        *([f"## Prompt\n{_prompt(config['prompt'])}"] if "prompt" in config else []),
        f"## Limits\n{_limits(config, retriever)}",
        f"## Training\n```json\n{json.dumps(training, indent=2, ensure_ascii=False)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _prompt(prompt: Mapping[str, Any]) -> str:
    answers = f"The answers are {json.dumps(prompt['yes'])} and {json.dumps(prompt['no'])}."
    return f"Part of the reranker. {answers}\n```\n{prompt['document']}{prompt['query']}\n```"


def _bases(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns what the model stands on: role -> name as it is loaded."""
    encoder, tuning = config.get("encoder", {}), config.get("encoder_tuning", {})
    tuned_from = tuning.get("of", "") if tuning.get("alpha") else ""  # a folder's name alone says nothing
    named = {
        "Encoder": encoder.get("name") or encoder.get("llm"),
        "Encoder before it was tuned": tuned_from if tuned_from in ALIASES or "/" in tuned_from else None,
        "LLM": config.get("llm"),
    }
    return {role: name for role, name in named.items() if name}


def _front_matter(config: Mapping[str, Any], retriever: bool) -> str:
    bases = [name for name in _bases(config).values() if not name.startswith(".")]
    values = {
        "library_name": "rabtriever",
        "license": config.get("license", "").lower(),
        "language": config.get("language"),
        "base_model": [ALIASES[name][0] if name in ALIASES else name for name in bases],
        "datasets": [dataset["name"] for dataset in _datasets(config)],
        "pipeline_tag": "sentence-similarity" if retriever else "text-ranking",
        "tags": ["rabtriever", "retrieval" if retriever else "reranker", "lora"],
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value)
    return "\n".join(["---", *lines, "---"])  # JSON values are YAML values


def _data(config: Mapping[str, Any]) -> str:
    rows = [
        f"- Training data: {_link(dataset)} ({dataset.get('license', 'licence not recorded')})"
        for dataset in _datasets(config)
    ]
    for role, name in _bases(config).items():
        if name in ALIASES:
            source = "{} ({})".format(*ALIASES[name])
        elif name.startswith(".."):
            source = (
                f"the folder `{name}`, as seen from this one; the model cannot be loaded without it. Keep both where "
                "they are, or correct it in rabtriever.json."
            )
        else:
            source = "in this folder" if name.startswith(".") else f"{name}, under its own licence"
        rows.append(f"- {role}: {source}")
    license = config.get("license", "no licence stated")
    return "\n".join([*rows, f"- This model: {license}"])


def _limits(config: Mapping[str, Any], retriever: bool) -> str:
    rows = ["- Languages and topics other than those of the training data were not measured."]
    if prompt := config.get("prompt"):
        of_document = f"- Of a document, the reranker reads the first {prompt['document_tokens']} tokens"
        rows.insert(0, f"{of_document}; of a query, the last {prompt['query_tokens']}.")
    if retriever:
        own = "search with `rerank=10`, or distil on your own documents."
        rows.append(
            f"- On documents unlike those it was trained on, the order is more reliable than probabilities: {own}"
        )
    if config.get("query_adapter"):
        rows.append("- It was trained for the documents of its training alone; others, added later, are hardly found.")
    return "\n".join(rows)


def _datasets(config: Mapping[str, Any]) -> list[dict[str, str]]:
    return config.get("datasets") or [{"name": name} for name in str(config.get("data") or "").split("+") if name]


def _link(dataset: Mapping[str, str]) -> str:
    return f"[{dataset['name']}]({dataset['url']})" if "url" in dataset else dataset["name"]


def _table(measures: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for values in measures.values() for column in values))
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    for name, values in measures.items():
        rows.append([name, *(f"{values[column]:.3f}" if column in values else "" for column in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
