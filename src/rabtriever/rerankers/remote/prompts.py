"""What chat models are told: the same words for a chat server, and for one that takes text with special tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rabtriever.errors import RemoteError

YES, NO = "Yes", "No"


@dataclass(frozen=True)
class ChatPrompt:
    """A question with two answers.

    Attributes:
        task: One sentence that says what is matched with what.
        document_name: What a document is called.
        query_name: What a query is called.
    """

    task: str
    document_name: str
    query_name: str

    def messages(self, query: str, document: str) -> list[dict[str, str]]:
        """Returns the messages of a chat about one pair."""
        question = f"Is this {self.document_name.lower()} the right one for the {self.query_name.lower()}?"
        user = f"{self.document_name}: {document}\n{self.query_name}: {query}\n{question}"
        system = f"{self.task} Answer only {YES.lower()} or {NO.lower()}."
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]


class ServerPrompt(NamedTuple):
    """A chat prompt in a model's own template, cut between document and query.

    Attributes:
        document: The beginning, with ``{document}`` in it.
        query: The rest, with ``{query}`` in it.
        choice_ids: The tokens of yes and no.
    """

    document: str
    query: str
    choice_ids: tuple[int, int]

    @classmethod
    def fetch(cls, chat: ChatPrompt, ask: Callable[[str, dict[str, Any]], Any]) -> ServerPrompt:
        """Has a vLLM server apply its model's chat template and name the tokens of the choices.

        Args:
            chat: What the model is told.
            ask: (last part of the path, body) -> decoded answer.

        Raises:
            RemoteError: the template loses the texts, or a choice is not one token.
        """
        messages = chat.messages("{query}", "{document}")
        written = {"add_generation_prompt": True, "chat_template_kwargs": {"enable_thinking": False}}
        try:
            tokens = ask("tokenize", {"messages": messages, **written})["tokens"]
            text = str(ask("detokenize", {"tokens": tokens})["prompt"])
            ids = [ask("tokenize", {"prompt": choice, "add_special_tokens": False})["tokens"] for choice in (YES, NO)]
            (yes,), (no,) = ids
        except RemoteError:  # which is a ValueError
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise RemoteError(f"its tokenizer gives no single token for {YES} and {NO} ({error}); try chat") from None
        cut = text.rfind(f"\n{chat.query_name}: {{query}}") + 1
        if not cut or text.count("{document}") != 1 or text.find("{document}") > cut:
            raise RemoteError("its chat template changes the message; try the protocol chat")
        return cls(text[:cut], text[cut:], (yes, no))
