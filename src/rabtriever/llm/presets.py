"""Prompt presets: the formats that instruct LLMs and published rerankers know, each made into a PromptTemplate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from typing_extensions import Unpack

from rabtriever.choices import PRESETS
from rabtriever.errors import InputError, first_line
from rabtriever.llm.prompt import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some chat templates tell the LLM the date: a prompt must be the same tomorrow.
SAME_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


class PresetOptions(TypedDict, total=False):
    """What can be said of a preset.

    Attributes:
        task: One sentence that says what is matched with what; the preset's own by default.
        document_name: What ``chat`` calls a document, such as ``Tool``; ``Document`` by default.
        query_name: What ``chat`` calls a query, such as ``Request``; ``Query`` by default.
    """

    task: str | None
    document_name: str | None
    query_name: str | None


def make_template(preset: str, tokenizer: PreTrainedTokenizerBase, **options: Unpack[PresetOptions]) -> PromptTemplate:
    """Makes a preset's prompt. It holds final strings, so that a saved model needs no preset.

    Args:
        preset: One of :data:`rabtriever.choices.PRESETS`.
        tokenizer: The LLM's; ``chat`` applies its chat template.
        **options: See :class:`PresetOptions`.

    Raises:
        InputError: no such preset, a blank task, or ``chat`` of an LLM whose chat template is missing or fails.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}: choose one of {', '.join(PRESETS)}", param="preset")
    for name, value in options.items():
        if value is not None and not str(value).strip():
            raise InputError(f"{name} is blank: say it in words, or leave it out", param=name)
    makers = (_plain, _chat, _qwen3_reranker, _bge_reranker_v2_gemma)
    return dict(zip(PRESETS, makers, strict=True))[preset](tokenizer, options)


def _plain(tokenizer: PreTrainedTokenizerBase, options: PresetOptions) -> PromptTemplate:
    default, task = PromptTemplate(), options.get("task")
    return PromptTemplate(document=f"{task}\n{default.document}") if task else default


def _chat(tokenizer: PreTrainedTokenizerBase, options: PresetOptions) -> PromptTemplate:
    """A question in the LLM's own chat template, cut between document and query."""
    task = options.get("task") or "You judge whether a document answers a query."
    document, query = options.get("document_name") or "Document", options.get("query_name") or "Query"
    question = f"Is this {document.lower()} the right one for the {query.lower()}?"
    text = _apply_chat_template(
        tokenizer, f"{task} Answer only yes or no.", f"{document}: {{document}}\n{query}: {{query}}\n{question}"
    )
    cut = text.rfind(f"\n{query}: {{query}}") + 1
    if not cut:
        raise InputError("preset 'chat': the LLM's chat template changes the message; give another preset")
    return PromptTemplate(document=text[:cut], query=text[cut:], yes="Yes", no="No")


def _qwen3_reranker(tokenizer: PreTrainedTokenizerBase, options: PresetOptions) -> PromptTemplate:
    """As Qwen3-Reranker was trained: the query first, an empty thought before the answer."""
    task = options.get("task") or "Given a web search query, retrieve relevant passages that answer the query"
    rule = (
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".'
    )
    system = f"<|im_start|>system\n{rule}<|im_end|>\n<|im_start|>user\n"
    return PromptTemplate(
        query=f"{system}<Instruct>: {task}\n<Query>: {{query}}\n",
        document="<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        yes="yes",
        no="no",
        query_first=True,
    )


def _bge_reranker_v2_gemma(tokenizer: PreTrainedTokenizerBase, options: PresetOptions) -> PromptTemplate:
    """As bge-reranker-v2-gemma was trained: the query first, the task last."""
    task = options.get("task") or (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
        "a prediction of either 'Yes' or 'No'."
    )
    return PromptTemplate(
        query="A: {query}\n", document=f"B: {{document}}\n{task}", yes="Yes", no="No", query_first=True
    )


def _apply_chat_template(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError("preset 'chat': the LLM has no chat template; give the preset plain", param="preset")
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    options["chat_template"] = SAME_DATE + tokenizer.get_chat_template()
    apart = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    in_one = [{"role": "user", "content": f"{system}\n\n{user}"}]  # for LLMs that know no system message
    for messages in (apart, in_one):
        try:
            return str(tokenizer.apply_chat_template(messages, **options))
        except TemplateError as error:
            fault = first_line(error)
    raise InputError(f"preset 'chat': the LLM's chat template fails ({fault}); give another preset", param="preset")
