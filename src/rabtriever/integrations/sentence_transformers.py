"""A retriever as a SentenceTransformer of stock modules, which loads without this package: dot products are log-odds.

A Router has one route for queries and one for documents. Both begin with the encoder's own modules, of which there is
one copy, and end with Dense layers that compute :mod:`rabtriever.integrations.vectors`. That takes the squares of the
predictor's hidden units. None of torch's activations is a square, but Hardswish, ``y relu6(y + 3) / 6``,
holds one:

    hardswish(y) = y^2 / 6 + y / 2    for -3 <= y <= 3

A residual connection takes ``y / 2`` away. A unit is scaled into that range by the greatest value that it has for any
embedding of length one, so the square is exact to rounding, for every text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.errors import InputError
from rabtriever.integrations.vectors import EXTRA, require_inner_product
from rabtriever.persistence.folder import atomic_folder

if TYPE_CHECKING:
    from rabtriever.retriever import Rabtriever
    from rabtriever.scoring.fold import Affine, FoldedPredictor

RANGE = 3.0  # in which Hardswish is a square and a line
NEW_DOCUMENT = "new_document"


def save_sentence_transformer(retriever: Rabtriever, folder: str | Path) -> None:
    """Writes a folder that ``SentenceTransformer(folder)`` loads; it needs sentence-transformers 5.7 or later.

    ``encode_query`` and ``encode_document`` give vectors whose dot product, the model's similarity, is the log-odds.
    Where documents that the predictor was not trained on have another gain, ``encode(texts, task="new_document",
    prompt_name="document")`` gives theirs: the model cannot tell which they are. A query of too many tokens loses its
    end there, its beginning here.

    Args:
        retriever: Over a sentence-transformers encoder; without a predictor, or with one of kind ``quadratic``; without
            examples.
        folder: To make; it must not exist, or be empty.

    Raises:
        InputError: a retriever that these modules cannot express, or ``folder`` exists.
    """
    name, encoder = retriever.name_or_path or "retriever", retriever.encoder
    require_inner_product(retriever)
    if not isinstance(encoder, SentenceEncoder):
        raise InputError(f"{name}: its encoder is an LLM; only one over a sentence-transformers encoder is exported")
    if retriever.examples:
        fault = "no module of sentence-transformers can look up the queries it remembers"
        raise InputError(f"{name}: {fault}; leave them out with --without-examples, or export --to onnx")
    if retriever.predictor and not encoder.model.normalized:
        unbounded = "its encoder's embeddings have no fixed length, so squares have no bound"
        raise InputError(f"{name}: {unbounded}; export --to onnx, or distill over one whose similarity is the cosine")
    from rabtriever.llm.weights import no_progress_bar

    model = _build(retriever, encoder)
    with atomic_folder(folder) as made, no_progress_bar():
        model.save(str(made), create_model_card=False)


def _build(retriever: Rabtriever, encoder: SentenceEncoder) -> Any:  # noqa: ANN401
    """Returns the SentenceTransformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    shared, fusion = _encoder_modules(encoder), retriever.fusion
    folded = retriever.predictor.fold() if retriever.predictor and retriever.correction else None
    sides = {"query": _query_side(retriever, folded), "document": _document_side(retriever, folded, fusion.gain)}
    if folded and fusion.new_gain != fusion.gain:
        sides[NEW_DOCUMENT] = _document_side(retriever, folded, fusion.new_gain)
    router = Router({task: [*shared, *_dense(side)] for task, side in sides.items()}, default_route="document")
    prompts = dict(encoder.model.prompts)
    return SentenceTransformer(modules=[router], prompts=prompts, similarity_fn_name="dot", device="cpu").eval()


def _encoder_modules(encoder: SentenceEncoder) -> list[Any]:
    """Returns the encoder's modules, and those that truncate and normalise as :class:`SentenceEncoder` does."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    from rabtriever.encoders.sentence_torch import TorchSentenceEngine

    loaded: Any = TorchSentenceEngine(encoder.model, "cpu", "float32").modules
    modules, kept = list(loaded.children()), encoder.model.truncate_dim
    if kept:
        loaded.truncate_dim = None
        first = torch.eye(kept, loaded.get_embedding_dimension())
        modules.append(Dense(first.shape[1], kept, False, torch.nn.Identity(), init_weight=first))
    if encoder.model.normalized and not isinstance(modules[-1], Normalize):
        modules.append(Normalize())
    return modules


class _Side(NamedTuple):
    """One side's vectors, ``linear x + bias + squares u(x)^2``, of embeddings x (H,) and hidden units u(x) (m,).

    Attributes:
        linear: float64 (dim, H).
        bias: float64 (dim,).
        units: Embeddings to hidden units; None without a predictor.
        squares: float64 (dim, m).
    """

    linear: np.ndarray
    bias: np.ndarray
    units: Affine | None
    squares: np.ndarray


def _query_side(retriever: Rabtriever, folded: FoldedPredictor | None) -> _Side:
    side = _side(retriever, folded.query_map if folded else None, 2 * folded.signs if folded else 0.0)
    side.bias[-2:] = 1.0, retriever.fusion.offset
    if retriever.query_adapter is not None and retriever.correction:
        side.linear[: len(retriever.query_adapter)] += retriever.query_adapter.T / np.sqrt(retriever.fusion.beta)
    if folded:
        side.squares[-3], side.bias[-3] = folded.signs, folded.constant - retriever.fusion.center
    return side


def _document_side(retriever: Rabtriever, folded: FoldedPredictor | None, gain: float) -> _Side:
    side = _side(retriever, folded.document_map if folded else None, gain)
    side.bias[-3], side.bias[-1] = gain, 1.0
    if folded:
        side.squares[-2] = gain * folded.signs
    return side


def _side(retriever: Rabtriever, units: Affine | None, factors: np.ndarray | float) -> _Side:
    """Returns columns of similarity and of hidden units times ``factors``, and the extra ones as zeros."""
    size, beta = retriever.encoder.hidden_size, retriever.fusion.beta
    linear = [np.sqrt(beta) * np.eye(size)] if beta else []
    bias = [np.zeros(size)] if beta else []
    if units:
        linear.append((factors * units.weight).T)
        bias.append(factors * units.bias)
    dim, m = sum(map(len, bias)) + EXTRA, len(units.bias) if units else 0
    extra = np.zeros((EXTRA, size))
    return _Side(np.concatenate([*linear, extra]), np.concatenate([*bias, extra[:, 0]]), units, np.zeros((dim, m)))


def _dense(side: _Side) -> list[Any]:
    """Returns the Dense layers that compute a side's vectors."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))

    dim, width = side.linear.shape
    if side.units is None:
        return [Dense(width, dim, True, torch.nn.Identity(), tensor(side.linear), tensor(side.bias))]
    weight, bias = side.units.weight.T.astype(np.float64), side.units.bias.astype(np.float64)
    scale = (np.linalg.norm(weight, axis=1) + np.abs(bias)) / RANGE
    scale = np.where(scale > 0, scale, 1.0)
    weight, bias = weight / scale[:, None], bias / scale
    # The first layer gives x itself, and behind it y^2 / 6 + bias / 2 of each unit y = weight x + bias.
    grown = width + len(bias)
    first = Dense(
        width,
        grown,
        True,
        torch.nn.Hardswish(),
        tensor(np.concatenate([np.zeros((width, width)), weight])),
        tensor(np.concatenate([np.zeros(width), bias])),
        use_residual=True,
    )
    first.residual.weight = torch.nn.Parameter(tensor(np.concatenate([np.eye(width), -weight / 2])))
    of_units = 6 * scale**2 * side.squares
    mixed, constant = np.concatenate([side.linear, of_units], axis=1), side.bias - of_units @ (bias / 2)
    return [first, Dense(grown, dim, True, torch.nn.Identity(), tensor(mixed), tensor(constant))]
