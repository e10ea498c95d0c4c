"""Loading a reranker by whatever names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import Unpack

if TYPE_CHECKING:
    from rabtriever.llm.loading import LoadOptions
    from rabtriever.rerankers.generative import GenerativeReranker


def load_reranker(
    name_or_path: str | Path, *, revision: str | None = None, **options: Unpack[LoadOptions]
) -> GenerativeReranker:
    """Loads a reranker.

    Args:
        name_or_path: ``tools`` (the model that ships), a folder of `rabtriever train` or `rabtriever distill`, a hub id
            ``owner/name`` of such a model, or an LLM, which is used as it is with the default prompt.
        revision: Branch, tag or commit of a hub id; the main branch if None.
        **options: ``device``, ``dtype`` and ``backend`` of the LLM; ``token`` and ``local_files_only`` of the hub.

    Raises:
        InputError: no model there.
    """
    from rabtriever.rerankers.generative import GenerativeReranker

    return GenerativeReranker.from_pretrained(name_or_path, revision=revision, **options)
