"""The LLM in training: a batch of texts in, the loss of its choices out; and the Trainer that feeds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from rabtriever.llm.backbone import Backbone, token_batches
from rabtriever.llm.loading import choice_direction
from rabtriever.llm.prompt import Prompt
from rabtriever.llm.sources import ADAPTER_WEIGHTS
from rabtriever.llm.torch_engine import TorchEngine, TorchKVCache
from rabtriever.scoring.predictor import Predictor
from rabtriever.training import fsdp, processes
from rabtriever.training.batches import TrainingBatch
from rabtriever.training.losses import decorrelation, dpo, listwise, pointwise

STUDENT = "student.safetensors"


class RerankerModule(nn.Module):
    """The LLM and its adapter, from a batch of texts to the loss.

    Args:
        model: The LLM with an adapter that is in training.
        prompt: Its prompt.
        objective: ``listwise``, ``sft`` or ``dpo``.
        student_weight: Weight of the student's losses: label softmax over the batch's documents, decorrelation from
            the LLM.

    Attributes:
        student: A predictor that is trained jointly, so that the LLM learns to encode texts separately, too; None
            until it is set.
        backbone: The same LLM and adapter for :func:`rabtriever.training.hard_negatives.mine_hard_negatives`.
        choice_direction: float32 (H,), w = w_yes - w_no.
    """

    choice_direction: Tensor

    def __init__(self, model: PeftModel, prompt: Prompt, objective: str, student_weight: float = 0.0) -> None:
        super().__init__()
        self.model, self.prompt, self.objective = model, prompt, objective
        self.student_weight = student_weight
        self.student: Predictor | None = None
        causal = cast(PreTrainedModel, model.get_base_model())
        if causal.device.type == "cpu":  # torch's fused attention is slow there, above all its derivative
            causal.set_attn_implementation("eager")
        # Without padding, gradients or not: a policy and its reference must differ in their weights alone.
        self.engine = TorchEngine(causal, pad=False)
        self.backbone = Backbone(causal.config, lambda: TorchEngine(causal))
        self._no_split_modules = causal._no_split_modules  # the layers that FSDP divides among processes
        self.register_buffer("choice_direction", choice_direction(causal, prompt.choice_ids), persistent=False)

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Computes the loss of one batch, or of a process's share of one.

        Returns:
            Scalars, of a share weighted so that the mean over processes is the batch's: ``loss``; ``accuracy``, the
            share of queries whose best document is relevant; with a student, ``student_accuracy``, the same of its
            log-odds.
        """
        device = self.choice_direction.device
        positive, scored = batch.positive.to(device), batch.scored.to(device)
        documents, query_ids = self.prompt.document_ids(batch.documents), self.prompt.query_ids(batch.queries)
        rows, columns = batch.scored.nonzero().T
        queries, labels = [query_ids[row] for row in rows.tolist()], positive[scored]
        prefixes = self.engine.prefill(documents)
        fsdp.gather_in_backward(self.engine.decoder.layers, prefixes.layers)
        pair_log_odds = self._pair_log_odds(queries, columns, prefixes)
        log_odds = pair_log_odds.new_full(scored.shape, float("-inf")).masked_scatter(scored, pair_log_odds)
        if self.objective == "dpo":
            with torch.no_grad(), self.model.disable_adapter():
                reference = self._pair_log_odds(queries, columns, self.engine.prefill(documents))
            loss = batch.pair_weight * dpo(pair_log_odds, reference, labels)
        else:
            loss = batch.pair_weight * pointwise(pair_log_odds, labels)
            if self.objective == "listwise":
                loss = batch.query_weight * listwise(log_odds, positive) + loss
        result = {"loss": loss, "accuracy": batch.query_weight * _accuracy(log_odds, positive)}
        if self.student is not None:
            students = self._student_log_odds(batch, prefixes)
            similar = _whole_decorrelation(batch, students, log_odds.detach())
            students = students.masked_fill(batch.own.to(device), float("-inf"))
            labelled = batch.query_weight * listwise(students, positive)
            result["loss"] = loss + self.student_weight * (labelled + similar)
            result["student_accuracy"] = batch.query_weight * _accuracy(students, positive)
        return result

    def _pair_log_odds(self, queries: list[list[int]], documents: Tensor, prefixes: TorchKVCache) -> Tensor:
        """Computes the log-odds float32 (p,) of pairs of token ids and int64 (p,) positions in ``prefixes``."""
        batches = list(token_batches([len(query) for query in queries], self.engine.token_budget // 2))
        states = [
            self.engine.encode_with_prefix(prefixes, documents[positions], [queries[i] for i in positions])
            for positions in batches
        ]
        order = torch.tensor([i for positions in batches for i in positions]).argsort()
        # A sum of products, since a matrix product would be rounded to bfloat16 under autocast.
        return (torch.cat(states)[order.to(self.choice_direction.device)] * self.choice_direction).sum(1)

    def _student_log_odds(self, batch: TrainingBatch, prefixes: TorchKVCache) -> Tensor:
        """Computes the student's log-odds (n, k); the document states are by-products of the reranker's."""
        z_q = self.engine.encode(self.prompt.query_ids(batch.queries, with_bos=True), "mean")
        with torch.autocast(self.choice_direction.device.type, enabled=False):
            return cast(Predictor, self.student).log_odds(z_q, prefixes.means)


def _whole_decorrelation(batch: TrainingBatch, students: Tensor, log_odds: Tensor) -> Tensor:
    """Returns the decorrelation over the scored pairs of the whole batch, of which a process has rows (n, k)."""
    n_own = len(students) if batch.query_weight else 0
    students, log_odds = processes.join_rows(students[:n_own]), processes.join_rows(log_odds[:n_own])
    scored = log_odds > float("-inf")
    whole = decorrelation(students[scored], log_odds[scored])
    # The mean over processes is to be this, and its gradient the sum of what reaches each one's rows.
    return whole.detach() + processes.count() * (whole - whole.detach())


def _accuracy(log_odds: Tensor, positive: Tensor) -> Tensor:
    return positive.gather(1, log_odds.detach().argmax(1, keepdim=True)).float().mean()


class RerankerTrainer(Trainer):
    """A Trainer of a :class:`RerankerModule` whose batch is one :class:`TrainingBatch`."""

    def __init__(self, model: RerankerModule, args: TrainingArguments, **options: Any) -> None:  # noqa: ANN401
        super().__init__(model, args, data_collator=collate, **options)
        self._sums: Counter[str] = Counter()

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **options: Any) -> Tensor:  # noqa: ANN401
        """Computes the loss of one batch and adds the other outputs to those of the next log."""
        outputs: dict[str, Tensor] = model(**inputs)
        self._sums.update({name: value.item() for name, value in outputs.items() if name != "loss"} | {"steps": 1})
        return outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs, with the means of the model's outputs over the steps since the last log."""
        steps, sums = self._sums.pop("steps", 1), processes.mean(self._sums)
        self._sums = Counter()
        super().log({**logs, **{name: round(value / steps, 4) for name, value in sums.items()}}, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes what is trained, the first process from the shards of all if it is in shards."""
        module, folder = cast(RerankerModule, self.model), Path(str(output_dir))
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        whole = {name: fsdp.whole(weight) for name, weight in trained.items()}
        if processes.rank():
            return
        adapter = {name.removeprefix("model."): weight for name, weight in whole.items() if name.startswith("model.")}
        # Embeddings are never trained, so the hub need not be asked about them.
        module.model.save_pretrained(str(folder), state_dict=adapter, save_embedding_layers=False)
        if module.student is not None:
            student = module.student.state_dict()
            student |= {name: whole[f"student.{name}"].detach() for name in student if f"student.{name}" in whole}
            save_file(student, folder / STUDENT)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        module, folder = cast(RerankerModule, self.model), Path(resume_from_checkpoint)
        adapter = load_file(folder / ADAPTER_WEIGHTS)
        saved = {f"model.{name}": weight for name, weight in adapter.items()}
        if module.student is not None:
            saved |= {f"student.{name}": weight for name, weight in load_file(folder / STUDENT).items()}
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                fsdp.fill(weight, saved[name.replace(".default.", ".")])  # peft's files do not name the adapter


def collate(batches: Sequence[TrainingBatch]) -> dict[str, TrainingBatch]:
    """Returns the inputs of :class:`RerankerModule`; raises ValueError unless there is one batch: none is lost."""
    (batch,) = batches
    return {"batch": batch}
