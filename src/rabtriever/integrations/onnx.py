"""A retriever's query path, encoder and fold, as one ONNX graph: token ids to a latent, in any language.

The folder holds ``model.onnx``, ``tokenizer.json`` and ``config.json``, which says how a text becomes token ids and how
a query's latent and a document's give their log-odds (:class:`rabtriever.scoring.layout.ScoreLayout`).
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.encoders.sentence_torch import TorchSentenceEngine
from rabtriever.errors import InputError, first_line
from rabtriever.extras import needs
from rabtriever.persistence.folder import atomic_folder, require_absent, write_json
from rabtriever.scoring.examples import NEAREST, SCALE, SHARPNESS, Examples
from rabtriever.scoring.fold import UNREACHED

if TYPE_CHECKING:
    from rabtriever.retriever import Rabtriever

MODEL, TOKENIZER, SETTINGS = "model.onnx", "tokenizer.json", "config.json"
ONE_FILE = 1_500_000_000  # bytes of weights up to which they are in model.onnx itself; protobuf ends at 2 GiB


def save_onnx(retriever: Rabtriever, folder: str | Path) -> None:
    """Writes the query path: ``input_ids`` and ``attention_mask``, int64 (n, tokens), to ``latent``, float32 (n, dim).

    A latent is that of ``retriever.encode_query``, computed in float32. Rows may be padded behind with zeros in the
    mask. Examples, the queries that a retriever remembers, are part of the graph.

    Args:
        retriever: Over a sentence-transformers encoder.
        folder: To make; it must not exist, or be empty.

    Raises:
        InputError: the retriever's encoder is an LLM, or torch's exporter cannot read it; or ``folder`` exists.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    with needs("onnx"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    name, encoder = retriever.name_or_path or "retriever", retriever.encoder
    if not isinstance(encoder, SentenceEncoder):
        raise InputError(f"{name}: its encoder is an LLM; only one over a sentence-transformers encoder is exported")
    require_absent(folder)
    path = QueryPath(retriever, encoder).eval()
    with atomic_folder(folder) as made:
        try:
            _export(path, encoder.tokenizers["query"].max_length, made / MODEL)
        except Exception as error:  # whatever a model's code does that the exporter cannot follow
            fault = f"its encoder cannot be written as ONNX ({first_line(error)})"
            raise InputError(f"{name}: {fault}; distill over another") from error
        encoder.tokenizers["query"].tokenizer.save(str(made / TOKENIZER))
        write_json(made / SETTINGS, _settings(retriever, encoder))


def _export(path: QueryPath, max_tokens: int, file: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every package that it could support
    example = torch.ones(2, min(8, max_tokens), dtype=torch.int64)
    sizes = {0: torch.export.Dim("n"), 1: torch.export.Dim("tokens", min=2, max=max_tokens)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own code
        torch.onnx.export(
            path,
            (example, example.clone()),
            str(file),
            input_names=["input_ids", "attention_mask"],
            output_names=["latent"],
            dynamic_shapes=(sizes, sizes),
            dynamo=True,
            external_data=sum(weight.nbytes for weight in path.parameters()) > ONE_FILE,
            verbose=False,
        )


def _settings(retriever: Rabtriever, encoder: SentenceEncoder) -> dict[str, Any]:
    tokenizer = encoder.tokenizers["query"]
    return {
        "prompt": tokenizer.prompt,
        "max_tokens": tokenizer.max_length,
        "first_tokens": tokenizer.prompt_tokens,  # kept of a longer query, before its last ones
        "layout": retriever.layout.to_dict(),
        "fingerprint": retriever.fingerprint,
    }


class QueryPath(nn.Module):
    """What ``Rabtriever.encode_query`` does behind the tokenizer, in torch.

    Args:
        retriever: With the fold and the examples.
        encoder: Its encoder, loaded again in float32.
    """

    signs: Tensor
    query_adapter: Tensor | None

    def __init__(self, retriever: Rabtriever, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.encoder, self.size = TorchSentenceEngine(encoder.model, "cpu", "float32").modules, encoder.hidden_size
        self.normalized, self.prompt_tokens = encoder.model.normalized, encoder.tokenizers["query"].prompt_tokens
        self.fusion, self.layout, self.correction = retriever.fusion, retriever.layout, retriever.correction
        self.root = float(np.sqrt(retriever.fusion.beta))
        folded = retriever.predictor.fold() if retriever.predictor else None
        self.squares, self.constant = bool(folded and folded.squares), (folded.constant if folded else 0.0)
        self.units = nn.Linear(self.size, len(folded.signs)) if folded else None
        if folded and self.units:
            self.units.weight.data = torch.from_numpy(np.ascontiguousarray(folded.query_map.weight.T))
            self.units.bias.data = torch.from_numpy(folded.query_map.bias)
            self.register_buffer("signs", torch.from_numpy(folded.signs))
        self.examples = _Examples(retriever.examples) if retriever.examples else None
        adapter = retriever.query_adapter if retriever.correction else None
        self.register_buffer("query_adapter", None if adapter is None else torch.from_numpy(adapter / self.root))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns the latents float32 (n, dim); see :meth:`rabtriever.Rabtriever.query_latents`."""
        features = {"input_ids": input_ids, "attention_mask": attention_mask, "prompt_length": self.prompt_tokens}
        states = self.encoder(features)["sentence_embedding"][:, : self.size]
        if self.normalized:
            states = nn.functional.normalize(states, dim=1)
        zero = states[:, :1] * 0
        parts, gain, bias = [self.root * states] if self.root else [], zero, zero + self.fusion.offset
        if self.query_adapter is not None:
            parts[0] = parts[0] + states @ self.query_adapter
        if self.examples is not None:
            shift = self.examples(states)
            parts[0] = parts[0] + shift / self.root
            if self.correction and self.fusion.gain > self.fusion.new_gain:
                less = self.examples.advantage(shift) / (self.fusion.gain - self.fusion.new_gain)
                gain, bias = gain - less, bias + self.fusion.gain * less
        if self.units is not None and self.correction:
            units = self.units(states)
            gain = gain + (self.constant - self.fusion.center)
            if self.squares:
                gain, units = gain + (units.square() * self.signs).sum(1, keepdim=True), 2 * self.signs * units
            parts.append(units)
        elif self.layout.n_relu:
            parts.append((zero + float(UNREACHED)).expand(-1, self.layout.n_relu))
        return torch.cat([*parts, gain, bias], dim=1)


class _Examples(nn.Module):
    """:class:`rabtriever.scoring.examples.Examples` in torch."""

    queries: Tensor
    documents: Tensor
    counts: Tensor
    embeddings: Tensor
    values: Tensor

    def __init__(self, examples: Examples) -> None:
        super().__init__()
        for name in ("queries", "documents", "counts", "embeddings", "values"):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(getattr(examples, name))))
        self.weight, self.share = examples.weight, examples.share

    def forward(self, states: Tensor) -> Tensor:
        """Returns the shifts float32 (n, H)."""
        similarities = nn.functional.normalize(states, dim=1) @ self.queries.T
        nearest, found = similarities.topk(min(NEAREST + 1, len(self.counts)), dim=1)
        near = torch.exp(SHARPNESS * (nearest - 1))
        if len(self.counts) > NEAREST:
            near = near - near[:, -1:]
        sums = (states[:, :1] * 0).expand(-1, len(self.values))
        sums = sums.scatter_add(1, self.documents[found].long(), near * self.counts[found])
        votes = sums.sign() * torch.log1p(SCALE * sums.abs())
        return self.weight * (votes @ self.values)

    def advantage(self, shift: Tensor) -> Tensor:
        """Returns what documents get that the predictor was not trained on, float32 (n, 1)."""
        most = (shift @ self.embeddings.T).max(dim=1, keepdim=True).values
        return self.share * most.clamp_min(0)
