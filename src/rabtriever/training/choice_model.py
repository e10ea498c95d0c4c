"""The LLM in training: a pool of texts in, the loss of its choices out; and the Trainer that feeds it."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from rabtriever.llm.backbone import TOKEN_BUDGET, Backbone, token_batches
from rabtriever.llm.loading import head_row
from rabtriever.llm.prompt import Prompt
from rabtriever.training.losses import dpo, listwise, pointwise
from rabtriever.training.pools import Pool, Pools


class ChoiceModel(nn.Module):
    """The LLM and its adapter, from a pool of texts to the loss.

    Args:
        model: The LLM with an adapter that is in training.
        prompt: Its prompt.
        objective: ``listwise``, ``sft`` or ``dpo``.
    """

    head: Tensor

    def __init__(self, model: PeftModel, prompt: Prompt, objective: str) -> None:
        super().__init__()
        self.model, self.prompt, self.objective = model, prompt, objective
        causal = cast(PreTrainedModel, model.get_base_model())
        self.backbone = Backbone(causal)
        self.register_buffer("head", head_row(causal, prompt.choice_ids), persistent=False)

    def forward(self, pool: Pool) -> dict[str, Tensor]:
        """Loss of one pool, and the log-odds (n_queries, n_documents) it came from."""
        log_odds = self._log_odds(pool)
        positive = pool.positive.to(log_odds.device)
        pair_loss = pointwise(log_odds, positive)
        if self.objective == "sft":
            loss = pair_loss
        elif self.objective == "dpo":
            with torch.no_grad(), self.model.disable_adapter():
                reference = self._log_odds(pool)
            loss = dpo(log_odds, reference, positive)
        else:
            loss = listwise(log_odds, positive) + pair_loss
        return {"loss": loss, "log_odds": log_odds}

    def save_adapter(self, folder: str) -> None:
        """Write the adapter; the embeddings are never trained, so the hub need not be asked about them."""
        self.model.save_pretrained(folder, save_embedding_layers=False)

    def _log_odds(self, pool: Pool) -> Tensor:
        queries, documents = self.prompt.query_ids(pool.queries), self.prompt.document_ids(pool.documents)
        prefixes = self.backbone.read_documents(documents)
        pairs = [(q, d) for q in range(len(queries)) for d in range(len(documents))]
        batches = list(token_batches([len(queries[q]) for q, _ in pairs], TOKEN_BUDGET // 2))
        states = [
            self.backbone.read_queries(
                prefixes, torch.tensor([pairs[i][1] for i in batch]), [queries[pairs[i][0]] for i in batch]
            )
            for batch in batches
        ]
        order = torch.tensor([i for batch in batches for i in batch]).argsort()
        return (torch.cat(states)[order.to(self.head.device)] @ self.head).view(len(queries), len(documents))


class PoolTrainer(Trainer):
    """A Trainer whose batch is one pool, in the data set's order."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401
        """Loss of one pool; the share of its queries that are answered right is kept for the log."""
        outputs = model(**inputs)
        right = pool_accuracy(outputs["log_odds"].detach(), inputs["pool"].positive)
        self._accuracy = 0.9 * getattr(self, "_accuracy", right) + 0.1 * right
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the running share of queries whose positive came first in their pool."""
        super().log({**logs, "pool_accuracy": round(getattr(self, "_accuracy", 0.0), 4)}, start_time)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:  # noqa: ANN401
        return torch.utils.data.SequentialSampler(cast(Pools, self.train_dataset))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Checkpoints hold what is trained: the adapter."""
        cast(ChoiceModel, self.model).save_adapter(str(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        cast(ChoiceModel, self.model).model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)


def pool_accuracy(log_odds: Tensor, positive: Tensor) -> float:
    """Share of queries whose best document of the pool is a positive."""
    best = log_odds.argmax(1).cpu()
    return positive.cpu()[torch.arange(len(best)), best].float().mean().item()
