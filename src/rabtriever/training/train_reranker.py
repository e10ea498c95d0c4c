"""Training a reranker: LoRA on the choice tokens of a causal LLM, through transformers.Trainer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments, set_seed
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import get_last_checkpoint

from rabtriever.data import RetrievalData, train_dev_split
from rabtriever.errors import InputError
from rabtriever.llm.loading import ADAPTER_WEIGHTS, is_path, load_base, native_dtype
from rabtriever.llm.prompt import Prompt, PromptTemplate
from rabtriever.persistence.folder import (
    ADAPTER,
    atomic_folder,
    check_new_folder,
    read_config,
    write_config,
    write_json,
)
from rabtriever.persistence.hub import resolve_model
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.batches import BatchDataset
from rabtriever.training.callbacks import JsonlLogger, TrainingCallback
from rabtriever.training.config import RerankerTrainingConfig
from rabtriever.training.hard_negatives import mine_hard_negatives
from rabtriever.training.reranker_trainer import STUDENT, RerankerModule, RerankerTrainer

DTYPES = ("float32", "bfloat16")
LOG = "train_log.jsonl"


def train_reranker(
    data: RetrievalData,
    out: str | Path,
    model: str | Path = "smollm2",
    *,
    prompt: PromptTemplate | None = None,
    config: RerankerTrainingConfig | None = None,
    callbacks: Sequence[TrainingCallback] = (),
    device: str | None = None,
    dtype: str | None = None,
) -> GenerativeReranker:
    """Trains a reranker on the ``train`` split, writes it to ``out`` and loads it from there.

    Held-out queries (:func:`rabtriever.data.train_dev_split`) are not trained on. Metrics are logged as lines of JSON to
    stderr and ``<out>/train_log.jsonl``. Checkpoints are in ``<out>.partial``; the same call resumes from the last one.

    Args:
        data: Documents, queries and qrels.
        out: Folder to make.
        model: ``tools``, a folder or hub id of ours, whose adapter is trained further (``lora_rank`` and ``lora_depth``
            are then the adapter's), or an LLM: ``smollm2``, a hub id, a folder or a GGUF file.
        prompt: What is written around documents and queries; if None, the model's, or the default template.
        config: How to train; the defaults if None.
        callbacks: Receive the metrics, too.
        device: ``cpu`` or ``cuda``; CUDA if it is available, if None.
        dtype: ``float32`` or ``bfloat16``; if None, bfloat16 where the hardware multiplies it. The adapter's weights are
            float32.

    Returns:
        The reranker, as :meth:`GenerativeReranker.from_pretrained` loads it from ``out``.

    Raises:
        InputError: ``out`` exists, an interrupted training there had other options, the data has no train split, or no
            model is found.
    """
    out = Path(out)
    check_new_folder(out)
    _train(data, out, model, prompt, config or RerankerTrainingConfig(), callbacks, _torch_dtype(device, dtype))
    return GenerativeReranker.from_pretrained(out, device=device, dtype=dtype)


@dataclass(frozen=True)
class _Start:
    """What a training starts from: an LLM (``source``), the adapter and prompt of a reranker, its earlier trainings."""

    source: str
    adapter: Path | None = None
    prompt: PromptTemplate = PromptTemplate()
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str | Path) -> _Start:
        """Returns the start that ``model`` names."""
        folder = resolve_model(model)
        if folder is None:
            return cls(str(Path(model).expanduser().resolve()) if is_path(str(model)) else str(model))
        saved, adapter = read_config(folder), folder / ADAPTER
        trained = saved.get("teacher", saved)  # of a retriever's folder, its reranker's
        earlier = [*trained.get("training_before", []), trained.get("training")]
        prompt = PromptTemplate.from_dict(saved["prompt"])
        return cls(saved["llm"], adapter if adapter.is_dir() else None, prompt, {"training_before": earlier})


def _train(
    data: RetrievalData,
    out: Path,
    model: str | Path,
    prompt: PromptTemplate | None,
    config: RerankerTrainingConfig,
    callbacks: Sequence[TrainingCallback],
    dtype: torch.dtype,
    device: str,
) -> None:
    data = train_dev_split(data)
    data.labelled_queries("train")
    if len(data.documents) < 2:
        raise InputError(f"{data.name}: training needs a wrong document beside each right one; add documents")
    start = _Start.of(model)
    template = prompt or start.prompt
    record = {"llm": start.source, "prompt": template.to_dict(), "data": data.name, "training": asdict(config)}
    record |= start.record
    set_seed(config.seed)
    base, tokenizer = load_base(start.source)
    for weight in base.parameters():  # and no buffer: rotary frequencies must stay float32
        weight.data = weight.data.to(dtype)
    base.to(device)  # type: ignore[arg-type]
    bound = Prompt(template, tokenizer)
    module = RerankerModule(_with_adapter(base, start, config), bound, config.objective, student_weight=config.student_weight)
    module.backbone.check_length(bound.max_tokens)
    partial = _checkpoint_dir(out, {**record, "dtype": str(dtype), "digest": _digest(data, start.adapter)})
    loggers = [JsonlLogger(partial / LOG), *callbacks]
    negatives = _hard_negatives(partial, data, module, config, loggers)
    trainer = RerankerTrainer(
        module,
        _arguments(partial, config, dtype, device),
        train_dataset=BatchDataset(data, config, negatives),
        callbacks=[_LogAdapter(loggers)],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is the command's answer
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(partial)))
    with atomic_folder(out) as folder:
        module.model.save_pretrained(str(folder / ADAPTER), save_embedding_layers=False)
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)
        shutil.copy(partial / LOG, folder / LOG)
        write_config(folder, record)
    shutil.rmtree(partial)


class _LogAdapter(TrainerCallback):
    """Hands the Trainer's logs to the callbacks."""

    def __init__(self, callbacks: Sequence[TrainingCallback]) -> None:
        self.callbacks = callbacks

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:  # noqa: ANN401
        for callback in self.callbacks:
            callback.on_log(state.global_step, logs or {})


def _hard_negatives(
    partial: Path,
    data: RetrievalData,
    module: RerankerModule,
    config: RerankerTrainingConfig,
    callbacks: Sequence[TrainingCallback],
) -> dict[str, list[str]]:
    """Returns the mined negatives, mined once; their student is trained jointly, if a student is."""
    if not config.hard_negative_share and not config.student_weight:
        return {}
    path, student = partial / "negatives.json", partial / STUDENT
    if not path.is_file():
        mined = mine_hard_negatives(
            data,
            module.backbone,
            module.prompt,
            module.choice_direction.cpu(),
            seed=config.seed,
            max_queries=config.steps * config.queries_per_step,
        )
        if mined.student is not None:
            save_file(mined.student.state_dict(), student)
            for callback in callbacks:
                callback.on_log(0, {"hard_negatives/R@1": mined.recall})
        write_json(path, mined.by_document)
    if config.student_weight and student.is_file():
        weights = load_file(student)
        hidden_units, hidden_size = weights["query.weight"].shape
        module.student = Predictor(hidden_size, hidden_units, dropout=0.2)
        module.student.load_state_dict(weights)
        module.student.to(module.choice_direction.device)
    negatives: dict[str, list[str]] = json.loads(path.read_text())
    return negatives


def _with_adapter(base: PreTrainedModel, start: _Start, config: RerankerTrainingConfig) -> PeftModel:
    base.requires_grad_(False)
    base.name_or_path = start.source  # what the adapter names as its base: an alias or hub id, not a cache folder
    if start.adapter is not None:
        return PeftModel.from_pretrained(base, start.adapter, is_trainable=True)
    n_layers = base.config.get_text_config().num_hidden_layers
    first = n_layers - max(1, round(n_layers * config.lora_depth))
    linear = {
        name.rpartition(".")[2]
        for name, module in base.get_decoder().named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=sorted(linear),
        layers_to_transform=list(range(first, n_layers)),
    )
    return get_peft_model(base, lora)


def _checkpoint_dir(out: Path, run: Mapping[str, Any]) -> Path:
    """Returns ``<out>.partial``, checked: what is in it was made by the same ``run``, and each checkpoint is whole."""
    partial = out.with_name(out.name + ".partial")
    path = partial / "run.json"
    if path.is_file() and json.loads(path.read_text()) != run:
        raise InputError(
            f"{partial}: an interrupted training with other options, data or model; repeat its command or remove it"
        )
    partial.mkdir(parents=True, exist_ok=True)
    write_json(path, run)
    for checkpoint in partial.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file():  # written last: the one before it is whole
            shutil.rmtree(checkpoint)
    return partial


def _digest(data: RetrievalData, adapter: Path | None) -> str:
    """Returns a hash of what training reads and starts from, so that nothing is resumed on other data or weights."""
    contents = [(document.id, document.content) for document in data.documents.values()]
    digest = hashlib.sha256(json.dumps([contents, data.queries, data.qrels["train"]]).encode())
    if adapter is not None:
        digest.update((adapter / ADAPTER_WEIGHTS).read_bytes())
    return digest.hexdigest()


def _device_and_dtype(device: str | None, dtype: str | None) -> tuple[str, torch.dtype]:
    if device not in (None, "cpu", "cuda"):
        raise InputError(
            f"device {device!r}: choose cpu or cuda (a card by CUDA_VISIBLE_DEVICES, before Python starts)", param="device"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype {dtype!r}: a reranker is trained in {' or '.join(DTYPES)}", param="dtype")
    return device, native_dtype(device) if dtype is None else getattr(torch, dtype)


def _arguments(partial: Path, config: RerankerTrainingConfig, dtype: torch.dtype, device: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(partial),
        max_steps=config.steps,
        per_device_train_batch_size=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, config.steps // 20),
        weight_decay=0.0,
        bf16=dtype == torch.bfloat16,
        use_cpu=device == "cpu",
        save_steps=config.checkpoint_every,
        save_total_limit=1,
        logging_steps=10,
        report_to=[],
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    # With several GPUs the Trainer would draw as many batches per step and split them among the cards.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
