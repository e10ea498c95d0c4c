"""A sentence-transformers model whose weights are trained: in full, or a LoRA adapter that is merged before saving."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rabtriever.encoders.base import Kind
from rabtriever.encoders.difference import save_copy
from rabtriever.encoders.sentence import SentenceEncoder
from rabtriever.encoders.sentence_model import SentenceModel
from rabtriever.encoders.sentence_tokenizer import SentenceTokenizer
from rabtriever.encoders.sentence_torch import TorchSentenceEngine
from rabtriever.llm.loading import native_dtype
from rabtriever.training import processes
from rabtriever.training.config import TuneEncoderConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MAX_TOKENS = 128  # of a text in training, for time and memory; what is tuned reads as many as before
ENCODED_AT_ONCE = 16  # texts of similar length: padded to the longest of a step, most tokens would be padding


class TunedModel:
    """A model in training, its weights in float32, what it computes in bfloat16 where the hardware multiplies it.

    Args:
        encoder: The encoder to tune; it stays as it is.
        config: ``method`` and ``lora_rank``.

    Attributes:
        modules: The SentenceTransformer.
        trained: Name -> weight that is trained.
    """

    def __init__(self, encoder: SentenceEncoder, config: TuneEncoderConfig) -> None:
        self.original, self.device = encoder.model, torch.device(encoder.device)
        self._engine = TorchSentenceEngine(encoder.model, encoder.device, torch.float32)
        self.modules: SentenceTransformer = self._engine.modules
        self._adapted = _add_lora(self.modules, config) if config.method == "lora" else None
        self.trained = {name: weight for name, weight in self.modules.named_parameters() if weight.requires_grad}
        self._tokenizers = {kind: _limit(tokenizer) for kind, tokenizer in encoder.tokenizers.items()}
        self._autocast = native_dtype(encoder.device) == torch.bfloat16

    def embed(self, kind: Kind, texts: Sequence[str]) -> Tensor:
        """Returns the embeddings float32 (n, H) of queries or documents, with gradients.

        Processes divide the texts; gradients reach the weights from a process's own ones.
        """
        tokenizer, own = self._tokenizers[kind], texts[processes.rank() :: processes.count()]
        sequences = tokenizer.ids(own or texts[:1])  # a process without a text computes one in vain
        order = torch.tensor([len(ids) for ids in sequences]).argsort(stable=True)
        with torch.autocast(self.device.type, torch.bfloat16, self._autocast):
            parts = [
                self._engine.embed([sequences[i] for i in block.tolist()], tokenizer.prompt_tokens)
                for block in order.split(ENCODED_AT_ONCE)
            ]
        embeddings = torch.cat(parts)[order.argsort()].float()[: len(own), : self.original.dimension]
        joined = processes.join_rows(embeddings)
        return F.normalize(joined, dim=1) if self.original.normalized else joined

    @torch.no_grad()
    def states(self, kind: Kind, texts: Sequence[str]) -> Tensor:
        """Returns the embeddings float32 (n, H) without gradients and dropout."""
        self.modules.eval()
        result = self.embed(kind, texts)
        self.modules.train()
        return result

    def save_checkpoint(self, path: Path, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Writes the trained weights, the optimiser's moments and the step, completely or not at all."""
        state = optimizer.state_dict()["state"]
        tensors = {f"weight.{name}": weight.detach() for name, weight in self.trained.items()}
        tensors |= {f"{key}.{name}": state[i][key] for i, name in enumerate(self.trained) for key in state.get(i, {})}
        temporary = path.with_name(f".{path.name}")
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary, {"step": json.dumps(step)}
        )
        os.replace(temporary, path)

    def load_checkpoint(self, path: Path, optimizer: torch.optim.Optimizer) -> int:
        """Continues from a checkpoint; returns its step, 0 without one."""
        if not processes.shared(lambda: [path] if path.is_file() else []):
            return 0
        from safetensors import safe_open

        tensors: dict[str, Tensor] = load_file(path, device=str(self.device))
        state: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for i, (name, weight) in enumerate(self.trained.items()):
                weight.copy_(tensors.pop(f"weight.{name}"))
                keys = ("step", "exp_avg", "exp_avg_sq")
                state[i] = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        with safe_open(path, framework="pt") as file:
            return int(json.loads(file.metadata()["step"]))

    def merge(self) -> dict[str, Tensor]:
        """Merges the adapter, if there is one, for good; returns all weights, name -> tensor."""
        if self._adapted is not None:
            self._adapted.merge_and_unload()
            self._adapted = None
        return {name: weight.detach() for name, weight in self.modules.named_parameters()}


@torch.no_grad()
def save_interpolated(original: SentenceModel, tuned: dict[str, Tensor], alpha: float, folder: Path) -> None:
    """Writes ``alpha`` x tuned + (1 - alpha) x original weights as a sentence-transformers folder.

    It reads texts as the original does with the user's choices: prompts, dimensions.

    Args:
        original: The model's files.
        tuned: All weights, :meth:`TunedModel.merge`.
        alpha: Share of the tuned weights.
        folder: An existing, empty folder.
    """
    modules = TorchSentenceEngine(original, "cpu", torch.float32).modules
    weights = {name: weight.lerp(tuned[name].to(weight), alpha) for name, weight in modules.named_parameters()}
    save_copy(original, weights, folder)


def _limit(tokenizer: SentenceTokenizer) -> SentenceTokenizer:
    """Returns the tokenizer of texts in training."""
    most = tokenizer.prompt_tokens + MAX_TOKENS
    return SentenceTokenizer(tokenizer.kind, tokenizer.prompt, tokenizer.tokenizer, min(tokenizer.max_length, most))


def _add_lora(modules: SentenceTransformer, config: TuneEncoderConfig) -> Any:  # noqa: ANN401
    """Adds an adapter to all linear maps, in place, and freezes the rest."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    linear = [name for name, module in modules.named_modules() if isinstance(module, nn.Linear)]
    lora = LoraConfig(r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=linear)
    return LoraModel(modules, lora, "default")
