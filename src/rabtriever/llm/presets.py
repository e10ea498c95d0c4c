"""Prompt presets: the formats that instruct LLMs and published rerankers know, made into a PromptTemplate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rabtriever.errors import InputError, first_line
from rabtriever.llm.prompt import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_template(
    preset: str, tokenizer: PreTrainedTokenizerBase, task: str | None = None, **names: str
) -> PromptTemplate:
    """Makes the prompt of a preset; it holds final strings, so that a saved model needs no preset.

    Args:
        preset: One of :data:`PRESETS`.
        tokenizer: The LLM's; ``chat`` applies its chat template.
        task: One sentence that says what is matched with what; the preset's own if None.
        **names: ``document_name`` and ``query_name``, which ``chat`` calls the texts by.

    Raises:
        InputError: no such preset, or an LLM without a chat template.
    """
    if preset not in PRESETS:
        raise InputError(f"preset {preset!r}: choose one of {', '.join(PRESETS)}", param="preset")
    return PRESETS[preset](tokenizer, task, **names)


def plain(tokenizer: PreTrainedTokenizerBase, task: str | None = None) -> PromptTemplate:
    """The default prompt, after the task if there is one: for LLMs that were trained on it."""
    default = PromptTemplate()
    return PromptTemplate(document=f"{task}\n{default.document}") if task else default


def chat(
    tokenizer: PreTrainedTokenizerBase,
    task: str | None = None,
    document_name: str = "Document",
    query_name: str = "Query",
) -> PromptTemplate:
    """A question to an instruct LLM, in its own chat template, cut between the document and the query."""
    system = f"{task or 'You judge whether a document answers a query.'} Answer only yes or no."
    question = f"Is this {document_name.lower()} the right one for the {query_name.lower()}?"
    user = f"{document_name}: {{document}}\n{query_name}: {{query}}\n{question}"
    text = _apply_chat_template(tokenizer, system, user)
    cut = text.find(f"{query_name}: {{query}}")
    if cut < 0:
        raise InputError("preset 'chat': the LLM's chat template changes the message; give another preset")
    return PromptTemplate(document=text[:cut], query=text[cut:], yes="Yes", no="No")


PRESETS = {"plain": plain, "chat": chat}


def _apply_chat_template(tokenizer: PreTrainedTokenizerBase, system: str, user: str) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError("preset 'chat': the LLM's tokenizer has no chat template; give --preset plain", param="preset")
    asked = {"role": "user", "content": user}
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        return str(tokenizer.apply_chat_template([{"role": "system", "content": system}, asked], **options))
    except TemplateError:  # some LLMs know no system message
        asked["content"] = f"{system}\n\n{user}"
    try:
        return str(tokenizer.apply_chat_template([asked], **options))
    except TemplateError as error:
        raise InputError(
            f"preset 'chat': the LLM's chat template fails ({first_line(error)})", param="preset"
        ) from error
