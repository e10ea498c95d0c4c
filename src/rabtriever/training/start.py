"""What a reranker's training starts from: an LLM, a reranker that is trained further, or its own last checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from rabtriever.data import RetrievalData
from rabtriever.errors import ConflictError, StorageError
from rabtriever.llm.loading import LoadedLLM, load_base, load_llm
from rabtriever.llm.prompt import PromptTemplate
from rabtriever.llm.sources import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_base, check_adapter, is_path
from rabtriever.persistence.folder import ADAPTER, absolute_path, local_path, normalized_uri, read_config, write_json
from rabtriever.persistence.hub import resolve_model
from rabtriever.persistence.object_store import is_uri
from rabtriever.persistence.storage import working_place
from rabtriever.training.config import RerankerTrainingConfig


@dataclass(frozen=True)
class Start:
    """The start of a training.

    Attributes:
        source: The LLM: an alias, a hub id or an absolute path.
        prompt: What is written around documents and queries.
        adapter: Folder of the adapter that is trained further; None to begin a new one.
        trainings: Options of the trainings that made the adapter.
        revision: Branch, tag or commit of the LLM's hub id, if the model names one.
    """

    source: str
    prompt: PromptTemplate
    adapter: Path | None = None
    trainings: list[dict[str, Any]] = field(default_factory=list)
    revision: str | None = None

    @classmethod
    def of(cls, model: str | Path, prompt: PromptTemplate | None = None) -> Start:
        """Finds a model of ours, or takes ``model`` as the name of an LLM; see :func:`train_reranker`.

        Raises:
            InputError: a folder or repository of ours that cannot be read.
        """
        if (folder := resolve_model(model)) is not None:
            saved = read_config(folder)
            trained = saved.get("teacher", saved)  # in a retriever's folder, its reranker's
            trainings = [*trained.get("training_before", []), *([trained["training"]] if "training" in trained else [])]
            adapter = folder / ADAPTER if (folder / ADAPTER).is_dir() else None
            prompt = prompt or PromptTemplate.from_dict(saved["prompt"])
            return cls(saved["llm"], prompt, adapter, trainings, saved.get("llm_revision"))
        source, adapter = str(model), None
        if (local_path(model) / ADAPTER_CONFIG).is_file():
            adapter = local_path(model)
            check_adapter(adapter)
            source = adapter_base(adapter)
        source = normalized_uri(source) if is_path(source) else source
        return cls(source, prompt or PromptTemplate(), adapter)

    def load(
        self, config: RerankerTrainingConfig, dtype: torch.dtype, device: str
    ) -> tuple[PeftModel, PreTrainedTokenizerBase]:
        """Loads the LLM with an adapter to train, in float32; the LLM's own weights are frozen, in ``dtype``.

        Raises:
            InputError: nothing that can be loaded is at ``source``.
        """
        base, tokenizer = load_base(self.source, self.revision)
        base.requires_grad_(False)
        for weight in base.parameters():  # no buffer: rope frequencies in bfloat16 are a radian off at position 700
            weight.data = weight.data.to(dtype)
        base.to(device)  # type: ignore[arg-type]
        base.name_or_path = self.source  # what the adapter names as its base: an alias or hub id, not a cache folder
        if self.adapter is not None:
            return PeftModel.from_pretrained(base, self.adapter, is_trainable=True), tokenizer
        return get_peft_model(base, _lora(base, config)), tokenizer

    def load_frozen(self) -> LoadedLLM:
        """Loads the LLM as it is before the training, by the fastest engine of a CPU."""
        return load_llm(self.source, self.adapter, revision=self.revision, device="cpu")

    def to_config(self) -> dict[str, Any]:
        """Returns its values of ``rabtriever.json``."""
        optional = {"llm_revision": self.revision, "training_before": self.trainings}
        given = {name: value for name, value in optional.items() if value}
        return {"llm": self.source, "prompt": self.prompt.to_dict(), **given}

    def digest(self, data: RetrievalData) -> str:
        """Returns a hash of what training reads and starts from, so that it is resumed on the same data and weights."""
        contents = [(document.id, document.content) for document in data.documents.values()]
        digest = hashlib.sha256(json.dumps([contents, data.queries, data.qrels["train"]]).encode())
        if self.adapter is not None:
            digest.update((self.adapter / ADAPTER_WEIGHTS).read_bytes())
        return digest.hexdigest()


def partial_folder(out: str | Path) -> Path:
    """Returns where an unfinished training of a model to be saved as ``out`` keeps its checkpoints, always here."""
    out = working_place(str(out)) if is_uri(out) else absolute_path(out)
    return out.with_name(out.name + ".partial")


def checkpoint_dir(out: str | Path, run: Mapping[str, Any]) -> Path:
    """Returns ``<out>.partial``, with a record of the run in it and without checkpoints that are not whole.

    Raises:
        ConflictError: it holds something else, or an interrupted training of another ``run``.
    """
    partial = partial_folder(out)
    path = partial / "run.json"
    empty = not partial.exists() or (partial.is_dir() and not any(partial.iterdir()))
    if not empty and not (path.is_file() and json.loads(path.read_text()) == run):
        raise ConflictError(
            f"{partial}: an interrupted training with other options, data or model; repeat its command or remove it"
        )
    try:
        partial.mkdir(parents=True, exist_ok=True)
        write_json(path, run)
    except OSError as error:
        raise StorageError(f"{partial}: cannot be made ({error.strerror}); give another --out") from error
    for checkpoint in partial.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file():  # written last: the one before it is whole
            shutil.rmtree(checkpoint)
    return partial


def _lora(base: PreTrainedModel, config: RerankerTrainingConfig) -> LoraConfig:
    """Returns an adapter of all linear maps in the upper layers; lm_head and the embeddings stay as they are."""
    n_layers = base.config.get_text_config().num_hidden_layers
    first = n_layers - max(1, round(n_layers * config.lora_depth))
    linear = {
        name.rpartition(".")[2]
        for name, module in base.get_decoder().named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=sorted(linear),
        layers_to_transform=list(range(first, n_layers)),
    )
