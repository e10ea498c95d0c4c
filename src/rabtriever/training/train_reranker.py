"""Training the teacher: LoRA on the choice tokens of a causal LLM, through transformers.Trainer."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments, set_seed
from transformers.pytorch_utils import Conv1D
from transformers.trainer_utils import get_last_checkpoint

from rabtriever.data import RetrievalData
from rabtriever.errors import InputError
from rabtriever.llm.loading import ADAPTER_WEIGHTS, is_path, load_base, native_dtype
from rabtriever.llm.prompt import Prompt, PromptTemplate
from rabtriever.persistence.folder import ADAPTER, CONFIG, atomic_folder, read_config, write_config, write_json
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.batches import Pool, Pools
from rabtriever.training.config import RerankerTrainingConfig
from rabtriever.training.hard_negatives import mine_hard_negatives
from rabtriever.training.reranker_trainer import STUDENT, RerankerModule, RerankerTrainer


def train_reranker(
    data: RetrievalData,
    out: str | Path,
    model: str = "smollm2",
    prompt: PromptTemplate | None = None,
    settings: RerankerTrainingConfig | None = None,
) -> None:
    """Train a reranker on the ``train`` split and write it to ``out``.

    Checkpoints lie in ``<out>.partial``; the same call goes on from the last one.

    Args:
        data: Documents, queries and judgements.
        out: Folder to make.
        model: The LLM: alias, hub id, folder or GGUF file. With a reranker's or retriever's folder, training goes on
            from its adapter, and ``lora_rank`` and ``lora_depth`` are the adapter's.
        prompt: What is written around documents and queries; if None, the model's, or the default template.
        settings: How to train; the defaults if None.

    Raises:
        InputError: ``out`` exists, an interrupted training there had other settings, or the data has no train split.
    """
    settings, out = settings or RerankerTrainingConfig(), Path(out)
    if out.exists():
        raise InputError(f"{out}: exists already; give another --out or remove it")
    start = read_config(model) if (Path(model) / CONFIG).is_file() else None
    source = start["llm"] if start else model
    source = str(Path(source).expanduser().resolve()) if is_path(source) else source
    prompt = prompt or (PromptTemplate.from_dict(start["prompt"]) if start else PromptTemplate())
    config = {"llm": source, "prompt": prompt.to_dict(), "data": data.name, "training": asdict(settings)}
    if start:
        before = start.get("teacher", start)  # of a retriever's folder, its teacher's
        config["training_before"] = [*before.get("training_before", []), before.get("training")]
    data.labelled_queries("train")
    data = data.with_dev()  # what a student will be calibrated on is not trained on here either
    if len(data.documents) < 2:
        raise InputError(f"{data.name}: training needs at least two documents, to tell one from the other")
    set_seed(settings.seed)
    base, tokenizer = load_base(source)
    bound = Prompt(prompt, tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base.to(device=device, dtype=native_dtype(device))  # type: ignore[call-arg]
    adapted = _with_adapter(base, source, settings, Path(model) / ADAPTER if start else None)
    module = RerankerModule(adapted, bound, settings.objective, student_weight=settings.student_weight)
    module.backbone.check_length(bound.max_tokens)
    partial = _resumable(out, {**config, "digest": _digest(data, Path(model) / ADAPTER)})
    pools = Pools(data, settings, _mined(partial, data, module, settings))
    trainer = RerankerTrainer(
        module,
        _arguments(partial, settings, device),
        data_collator=_only,
        train_dataset=pools,
        callbacks=[_JsonLog(partial / "log.jsonl")],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is the command's answer
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(partial)))
    with atomic_folder(out) as folder:
        adapted.save_pretrained(str(folder / ADAPTER), save_embedding_layers=False)
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)
        shutil.copy(partial / "log.jsonl", folder / "train_log.jsonl")
        write_config(folder, config)
    shutil.rmtree(partial)


class _JsonLog(TrainerCallback):
    """Each log line of the Trainer as a line of JSON on disk and on stderr."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:  # noqa: ANN401
        line = json.dumps({"step": state.global_step, **(logs or {})})
        print(line, file=sys.stderr, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _mined(
    partial: Path, data: RetrievalData, module: RerankerModule, settings: RerankerTrainingConfig
) -> dict[str, list[str]]:
    """Hard negatives, mined once; the quick student that found them learns along, if a student shall."""
    path, student = partial / "negatives.json", partial / STUDENT
    if not path.is_file():
        most = settings.steps * settings.queries  # mining reads no more queries than training will
        mined, found = mine_hard_negatives(
            data, module.backbone, module.prompt, module.head.cpu(), settings.seed, most=most
        )
        if found is not None:
            save_file(found.state_dict(), student)
        write_json(path, mined)
    if settings.student_weight and student.is_file():
        weights = load_file(student)
        width, hidden = weights["query.weight"].shape
        module.student = Predictor(hidden, width, dropout=0.2).to(module.head.device)
        module.student.load_state_dict(weights)
    neighbours: dict[str, list[str]] = json.loads(path.read_text())
    return neighbours


def _with_adapter(
    base: PreTrainedModel, source: str, settings: RerankerTrainingConfig, start: Path | None
) -> PeftModel:
    base.requires_grad_(False)
    base.name_or_path = source  # what the adapter names as its base: an alias or hub id, not a cache folder
    if start is not None and start.is_dir():
        return PeftModel.from_pretrained(base, start, is_trainable=True)
    layers = base.config.get_text_config().num_hidden_layers
    first = layers - max(1, round(layers * settings.lora_depth))
    products = {
        name.rpartition(".")[2]
        for name, module in base.get_decoder().named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    adapter = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules=sorted(products),
        layers_to_transform=list(range(first, layers)),
    )
    return get_peft_model(base, adapter)


def _resumable(out: Path, config: dict[str, Any]) -> Path:
    partial = out.with_name(out.name + ".partial")
    settings = partial / "settings.json"
    if settings.is_file() and json.loads(settings.read_text()) != config:
        raise InputError(
            f"{partial}: an interrupted training with other settings, data or model; repeat its command or remove it"
        )
    partial.mkdir(parents=True, exist_ok=True)
    write_json(settings, config)
    for checkpoint in partial.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").is_file():  # written last: the one before it is whole
            shutil.rmtree(checkpoint)
    return partial


def _digest(data: RetrievalData, adapter: Path) -> str:
    """Of what training reads and starts from, so that nothing is resumed on other data or from another adapter."""
    contents = [(document.id, document.content) for document in data.documents.values()]
    digest = hashlib.sha256(json.dumps([contents, data.queries, data.qrels["train"]]).encode())
    if (adapter / ADAPTER_WEIGHTS).is_file():
        digest.update((adapter / ADAPTER_WEIGHTS).read_bytes())
    return digest.hexdigest()


def _arguments(partial: Path, settings: RerankerTrainingConfig, device: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(partial),
        max_steps=settings.steps,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, settings.steps // 20),
        weight_decay=0.0,
        bf16=native_dtype(device) == torch.bfloat16,
        use_cpu=device == "cpu",
        save_steps=settings.checkpoint_every,
        save_total_limit=1,
        logging_steps=10,
        report_to=[],
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        disable_tqdm=True,
    )


def _only(pools: list[Pool]) -> dict[str, Pool]:
    return {"pool": pools[0]}
