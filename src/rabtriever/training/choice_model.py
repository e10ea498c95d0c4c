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
from rabtriever.training.pools import Pool


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
        """Loss of one pool, and the share of its queries whose best document is right."""
        log_odds, positive = self._log_odds(pool), pool.positive.to(self.head.device)
        best = log_odds.detach().argmax(1, keepdim=True)
        return {
            "loss": self._loss(pool, log_odds, positive),
            "accuracy": positive.gather(1, best).float().mean(),
        }

    def save_adapter(self, folder: str) -> None:
        """Write the adapter; the embeddings are never trained, so the hub need not be asked about them."""
        self.model.save_pretrained(folder, save_embedding_layers=False)

    def _loss(self, pool: Pool, log_odds: Tensor, positive: Tensor) -> Tensor:
        asked = pool.asked.to(self.head.device)
        if self.objective == "dpo":
            with torch.no_grad(), self.model.disable_adapter():
                reference = self._log_odds(pool)
            return dpo(log_odds[asked], reference[asked], positive[asked])
        pair_loss = pointwise(log_odds[asked], positive[asked])
        return pair_loss if self.objective == "sft" else listwise(log_odds, positive) + pair_loss

    def _log_odds(self, pool: Pool) -> Tensor:
        """Log-odds (n_queries, n_documents) of the pairs that are asked, -inf elsewhere."""
        queries, documents = self.prompt.query_ids(pool.queries), self.prompt.document_ids(pool.documents)
        prefixes = self.backbone.read_documents(documents)
        pairs = pool.asked.nonzero()
        batches = list(token_batches([len(queries[q]) for q in pairs[:, 0].tolist()], TOKEN_BUDGET // 2))
        states = [
            self.backbone.read_queries(prefixes, pairs[batch, 1], [queries[q] for q in pairs[batch, 0].tolist()])
            for batch in batches
        ]
        log_odds = self.head.new_full(pool.asked.shape, float("-inf"))
        rows, columns = pairs[[i for batch in batches for i in batch]].T.to(self.head.device)
        # A sum of products, since a matrix product would be rounded to bfloat16 under autocast.
        return log_odds.index_put((rows, columns), (torch.cat(states) * self.head).sum(1))


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
        self._accuracies = [*getattr(self, "_accuracies", []), outputs["accuracy"].item()]
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the share of queries whose best document was right, over the steps since the last log."""
        seen, self._accuracies = getattr(self, "_accuracies", []), []
        super().log({**logs, **({"accuracy": round(sum(seen) / len(seen), 4)} if seen else {})}, start_time)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:  # noqa: ANN401
        return torch.utils.data.SequentialSampler(cast(Any, self.train_dataset))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Checkpoints hold what is trained: the adapter."""
        cast(ChoiceModel, self.model).save_adapter(str(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        cast(ChoiceModel, self.model).model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)
