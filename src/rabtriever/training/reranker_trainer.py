"""The LLM in training: a batch of texts in, the loss of its choices out; and the Trainer that feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from rabtriever.llm.backbone import Backbone, token_batches
from rabtriever.llm.loading import choice_direction
from rabtriever.llm.prompt import Prompt
from rabtriever.llm.torch_engine import TorchEngine, TorchKVCache
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.batches import TrainingBatch
from rabtriever.training.losses import decorrelation, dpo, listwise, pointwise

STUDENT = "student.safetensors"


class _Pairs(NamedTuple):
    """A batch's token ids, and the pairs int64 (p, 2) of (query, document) positions that are scored."""

    queries: list[list[int]]
    documents: list[list[int]]
    rows: Tensor


class RerankerModule(nn.Module):
    """The LLM and its adapter, from a batch of texts to the loss.

    Args:
        model: The LLM with an adapter that is in training.
        prompt: Its prompt.
        objective: ``listwise``, ``sft`` or ``dpo``.
        student: A predictor that is trained jointly, so that the LLM learns to encode texts separately, too.
        student_weight: Weight of its losses: label softmax over the batch's documents, decorrelation from the LLM.

    Attributes:
        backbone: The same LLM and adapter for :func:`rabtriever.training.hard_negatives.mine_hard_negatives`.
        choice_direction: float32 (H,), w = w_yes - w_no.
    """

    choice_direction: Tensor

    def __init__(
        self,
        model: PeftModel,
        prompt: Prompt,
        objective: str,
        student: Predictor | None = None,
        student_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model, self.prompt, self.objective = model, prompt, objective
        self.student, self.student_weight = student, student_weight
        causal = cast(PreTrainedModel, model.get_base_model())
        # Without padding, gradients or not: a policy and its reference must differ in their weights alone.
        self.engine = TorchEngine(causal, pad=False)
        self.backbone = Backbone(causal.config, lambda: TorchEngine(causal))
        self.register_buffer("choice_direction", choice_direction(causal, prompt.choice_ids), persistent=False)

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Computes the loss of one batch.

        Returns:
            Scalars: ``loss``; ``accuracy``, the share of queries whose best document is relevant; with a student,
            ``student_accuracy``, the same of its log-odds.
        """
        device = self.choice_direction.device
        positive, scored = batch.positive.to(device), batch.scored.to(device)
        pairs = _Pairs(
            self.prompt.query_ids(batch.queries), self.prompt.document_ids(batch.documents), batch.scored.nonzero()
        )
        prefixes = self.engine.prefill(pairs.documents)
        pair_log_odds = self._pair_log_odds(pairs, prefixes)
        log_odds = pair_log_odds.new_full(scored.shape, float("-inf")).masked_scatter(scored, pair_log_odds)
        loss = self._loss(pairs, log_odds, pair_log_odds, positive, positive[scored])
        result = {"loss": loss, "accuracy": _accuracy(log_odds, positive)}
        if self.student is not None:
            students = self._student_log_odds(batch.queries, prefixes)
            similar = decorrelation(students[scored], pair_log_odds.detach())
            students = students.masked_fill(batch.own.to(device), float("-inf"))
            result["loss"] = loss + self.student_weight * (listwise(students, positive) + similar)
            result["student_accuracy"] = _accuracy(students, positive)
        return result

    def save(self, folder: Path) -> None:
        """Writes what is trained; the embeddings never are, so the hub need not be asked about them."""
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        if self.student is not None:
            save_file(self.student.state_dict(), folder / STUDENT)

    def load(self, folder: Path) -> None:
        """Reads what :meth:`save` wrote."""
        self.model.load_adapter(str(folder), "default", is_trainable=True)
        if self.student is not None:
            self.student.load_state_dict(load_file(folder / STUDENT))

    def _loss(
        self, pairs: _Pairs, log_odds: Tensor, pair_log_odds: Tensor, positive: Tensor, pair_positive: Tensor
    ) -> Tensor:
        if self.objective == "dpo":
            return dpo(pair_log_odds, self._reference_log_odds(pairs), pair_positive)
        pair_loss = pointwise(pair_log_odds, pair_positive)
        return pair_loss if self.objective == "sft" else listwise(log_odds, positive) + pair_loss

    @torch.no_grad()
    def _reference_log_odds(self, pairs: _Pairs) -> Tensor:
        """Computes the log-odds float32 (p,) of the LLM without its adapter."""
        with self.model.disable_adapter():
            return self._pair_log_odds(pairs, self.engine.prefill(pairs.documents))

    def _pair_log_odds(self, pairs: _Pairs, prefixes: TorchKVCache) -> Tensor:
        """Computes the log-odds float32 (p,) of the pairs, in their order."""
        queries = [pairs.queries[query] for query in pairs.rows[:, 0].tolist()]
        batches = list(token_batches([len(query) for query in queries], self.engine.token_budget // 2))
        states = [
            self.engine.encode_with_prefix(prefixes, pairs.rows[batch, 1], [queries[i] for i in batch])
            for batch in batches
        ]
        order = torch.tensor([i for batch in batches for i in batch]).argsort().to(self.choice_direction.device)
        # A sum of products, since a matrix product would be rounded to bfloat16 under autocast.
        return (torch.cat(states)[order] * self.choice_direction).sum(1)

    def _student_log_odds(self, queries: Sequence[str], prefixes: TorchKVCache) -> Tensor:
        """Computes the student's log-odds (n, k); the document states are by-products of the reranker's."""
        z_q = self.engine.encode(self.prompt.query_ids(queries, with_bos=True), "mean")
        with torch.autocast(self.choice_direction.device.type, enabled=False):
            return cast(Predictor, self.student).log_odds(z_q, prefixes.means)


def _accuracy(log_odds: Tensor, positive: Tensor) -> Tensor:
    best = log_odds.detach().argmax(1, keepdim=True)
    return positive.gather(1, best).float().mean()


class RerankerTrainer(Trainer):
    """A Trainer whose batch is one :class:`TrainingBatch`, in the data set's order."""

    def __init__(self, model: RerankerModule, args: TrainingArguments, **options: Any) -> None:  # noqa: ANN401
        super().__init__(model, args, data_collator=collate, **options)
        self._outputs: list[dict[str, float]] = []

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """Computes the loss of one batch and stores the other outputs for the log."""
        outputs = model(**inputs)
        self._outputs.append({name: value.item() for name, value in outputs.items() if name != "loss"})
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs, with the means of the model's outputs over the steps since the last log."""
        outputs, self._outputs = self._outputs, []
        names = outputs[0] if outputs else {}
        means = {name: round(sum(line[name] for line in outputs) / len(outputs), 4) for name in names}
        super().log({**logs, **means}, start_time)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:  # noqa: ANN401
        return torch.utils.data.SequentialSampler(cast(Any, self.train_dataset))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes a checkpoint of what is trained: the adapter, and the student if there is one."""
        cast(RerankerModule, self.model).save(Path(str(output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        cast(RerankerModule, self.model).load(Path(resume_from_checkpoint))


def collate(batches: Sequence[TrainingBatch]) -> dict[str, TrainingBatch]:
    """Returns the inputs of :class:`RerankerModule`.

    Raises:
        ValueError: several batches, of which all but one would be lost.
    """
    if len(batches) != 1:
        raise ValueError(f"{len(batches)} batches in one step: the Trainer must take one; set its n_gpu to 1")
    return {"batch": batches[0]}
