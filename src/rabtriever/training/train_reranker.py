"""Training a reranker: LoRA on the choice tokens of a causal LLM, through transformers.Trainer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from rabtriever.data import RetrievalData, train_dev_split
from rabtriever.errors import InputError
from rabtriever.llm.loading import choose_device, native_dtype
from rabtriever.llm.prompt import Prompt, PromptTemplate
from rabtriever.llm.prompted import PromptedLLM
from rabtriever.persistence.folder import (
    ADAPTER,
    atomic_folder,
    normalized_uri,
    require_absent,
    write_config,
    write_json,
)
from rabtriever.persistence.model_card import CARD
from rabtriever.progress import bar
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.scoring.predictor import Predictor
from rabtriever.training import processes
from rabtriever.training.batches import BatchDataset
from rabtriever.training.callbacks import JsonlLogger, TrainingCallback
from rabtriever.training.config import RerankerTrainingConfig
from rabtriever.training.hard_negatives import mine_hard_negatives
from rabtriever.training.reranker_trainer import STUDENT, RerankerModule, RerankerTrainer
from rabtriever.training.start import Start, checkpoint_dir

DTYPES = ("float32", "bfloat16")
LOG = "train_log.jsonl"
NEGATIVES = "negatives.json"


def train_reranker(
    data: RetrievalData,
    out: str | Path,
    model: str | Path = "smollm2",
    *,
    prompt: PromptTemplate | None = None,
    config: RerankerTrainingConfig | None = None,
    callbacks: Sequence[TrainingCallback] = (),
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
) -> GenerativeReranker:
    """Trains a reranker on the ``train`` split, writes it to ``out`` and loads it from there.

    Held-out queries (:func:`rabtriever.data.train_dev_split`) are not trained on. Metrics are logged as lines of JSON
    to stderr and ``<out>/train_log.jsonl``. Checkpoints are in ``<out>.partial``; the same call resumes from the last.
    Processes that a launcher starts share the queries of each step; the first one writes and logs.

    Args:
        data: Documents, queries and qrels.
        out: Folder to make, or its URI; checkpoints are in the cache folder then.
        model: ``tools``, a folder or hub id of ours, whose adapter is trained further (``lora_rank`` and ``lora_depth``
            are then the adapter's), or an LLM: ``smollm2``, a hub id, a folder or a GGUF file.
        prompt: What is written around documents and queries; if None, the model's, or the default template.
        config: How to train; the defaults if None.
        callbacks: Receive the metrics, too.
        device: ``cpu`` or ``cuda``; CUDA if it is available, if None.
        dtype: ``float32`` or ``bfloat16``; if None, bfloat16 where the hardware multiplies it. The adapter's weights
            are float32.

    Returns:
        The reranker, as :meth:`GenerativeReranker.from_pretrained` loads it from ``out``.

    Raises:
        InputError: ``out`` exists, an interrupted training there had other options, the data has no train split, or no
            model is found.
    """
    processes.start(device)
    out, config = normalized_uri(out), config or RerankerTrainingConfig()
    require_absent(out)
    data = train_dev_split(data)
    data.labelled_queries("train")
    if len(data.documents) < 2:
        raise InputError(f"{data.name}: a single document has no negatives; add documents to the corpus")
    start = Start.of(model, prompt)
    if start.prompt.query_first:  # its steps share a document's computation among queries
        raise InputError("prompt.query_first: training reads documents first; leave it out")
    _train(data, out, start, config, callbacks, *_dtype_and_device(dtype, device))
    return GenerativeReranker.from_pretrained(out, device=device, dtype=dtype)


def _train(
    data: RetrievalData,
    out: str,
    start: Start,
    config: RerankerTrainingConfig,
    callbacks: Sequence[TrainingCallback],
    dtype: torch.dtype,
    device: str,
) -> None:
    """Trains and writes ``out``; when it returns, the memory of the LLM in training is free again."""
    set_seed(config.seed)
    model, tokenizer = start.load(config, dtype, device)
    prompt = Prompt(start.prompt, tokenizer)
    module = RerankerModule(model, prompt, config.objective, config.student_weight)
    module.backbone.check_length(prompt.max_tokens)
    record = {**start.to_config(), "data": data.name, "training": asdict(config)}
    run = {**record, "dtype": str(dtype), "digest": start.digest(data)}
    (partial,) = processes.shared(lambda: [checkpoint_dir(out, run)])
    loggers = [JsonlLogger(partial / LOG), *callbacks] if processes.rank() == 0 else []
    negatives = {}
    if config.hard_negative_share or config.student_weight:
        negatives = _read_mined(
            processes.shared(lambda: _mine(partial, data, module, start, config, loggers)), module, config
        )
    trainer = RerankerTrainer(
        module,
        _arguments(partial, config, dtype, device),
        train_dataset=BatchDataset(data, config, negatives, processes.count()),
        callbacks=[_LogAdapter(loggers), _Bar()],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is the command's answer
    set_seed(config.seed + processes.rank())  # of dropout: each process draws its own
    checkpoints = processes.shared(lambda: [Path(path)] if (path := get_last_checkpoint(str(partial))) else [])
    trainer.train(resume_from_checkpoint=str(checkpoints[0]) if checkpoints else None)

    def write() -> None:
        with atomic_folder(out) as folder:
            # peft's card is an empty form.
            shutil.copytree(partial / ADAPTER, folder / ADAPTER, ignore=shutil.ignore_patterns(CARD, STUDENT))
            shutil.copy(partial / LOG, folder / LOG)
            write_config(folder, record, Path(out).name)
        shutil.rmtree(partial)

    trainer.save_model(str(partial / ADAPTER))
    processes.wait()  # each writes its random state into checkpoints
    processes.first(write)


class _LogAdapter(TrainerCallback):
    """Hands the Trainer's logs to the callbacks."""

    def __init__(self, callbacks: Sequence[TrainingCallback]) -> None:
        self.callbacks = callbacks

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:  # noqa: ANN401
        for callback in self.callbacks:
            callback.on_log(state.global_step, logs or {})


class _Bar(TrainerCallback):
    """Shows the steps."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        self.bar = bar(state.max_steps, "training the reranker", initial=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        self.bar.close()


def _mine(
    partial: Path,
    data: RetrievalData,
    module: RerankerModule,
    start: Start,
    config: RerankerTrainingConfig,
    callbacks: Sequence[TrainingCallback],
) -> list[Path]:
    """Mines the negatives, once; returns their file, and that of their student if they have one."""
    negatives, student = partial / NEGATIVES, partial / STUDENT
    if negatives.is_file():
        return [path for path in (negatives, student) if path.is_file()]
    # Not trained yet, the LLM on a CPU is faster in int8; on a GPU a second one would take its memory.
    on_cpu = module.choice_direction.device.type == "cpu"
    miner = PromptedLLM(start.load_frozen(), start.prompt) if on_cpu else module
    mined = mine_hard_negatives(data, miner, seed=config.seed, max_queries=config.steps * config.queries_per_step)
    if mined.student is not None:
        save_file(mined.student.state_dict(), student)
        for callback in callbacks:
            callback.on_log(0, {"hard_negatives/R@1": mined.recall})
    write_json(negatives, mined.by_document)
    return [negatives] if mined.student is None else [negatives, student]


def _read_mined(files: Sequence[Path], module: RerankerModule, config: RerankerTrainingConfig) -> dict[str, list[str]]:
    """Returns the mined negatives; their student is trained jointly, if a student is."""
    negatives, *student = files
    if config.student_weight and student:
        module.student = Predictor(module.backbone.hidden_size, dropout=0.2)
        module.student.load_state_dict(load_file(student[0]))
        module.student.to(module.choice_direction.device)
    found: dict[str, list[str]] = json.loads(negatives.read_text())
    return found


def _arguments(partial: Path, config: RerankerTrainingConfig, dtype: torch.dtype, device: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(partial),
        max_steps=config.steps,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",  # the data set shuffles
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, config.steps // 20),
        bf16=dtype == torch.bfloat16,
        use_cpu=device == "cpu",
        save_steps=config.checkpoint_every,
        save_total_limit=1,
        logging_steps=10,
        report_to=[],
        seed=config.seed,
        remove_unused_columns=False,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,  # a share uses what the whole batch does
    )
    # With several GPUs the Trainer would draw as many batches per step and split them among the cards.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _dtype_and_device(dtype: torch.dtype | str | None, device: str | None) -> tuple[torch.dtype, str]:
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"device {device!r}: choose cpu or cuda (which card: CUDA_VISIBLE_DEVICES)", param="device")
    if name not in (None, *DTYPES):
        raise InputError(f"dtype {name!r}: a reranker is trained in {' or '.join(DTYPES)}", param="dtype")
    device = choose_device(device)
    return native_dtype(device) if name is None else getattr(torch, name), device
