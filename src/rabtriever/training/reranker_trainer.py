"""The LLM in training: a pool of texts in, the loss of its choices out; and the Trainer that feeds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from rabtriever.llm.backbone import Backbone, token_batches
from rabtriever.llm.loading import choice_direction
from rabtriever.llm.prompt import Prompt
from rabtriever.llm.torch_engine import TOKEN_BUDGET, TorchEngine, TorchKVCache
from rabtriever.scoring.predictor import Predictor
from rabtriever.training.batches import Pool
from rabtriever.training.losses import decorrelation, dpo, listwise, pointwise

STUDENT = "student.safetensors"


class RerankerModule(nn.Module):
    """The LLM and its adapter, from a pool of texts to the loss.

    Args:
        model: The LLM with an adapter that is in training.
        prompt: Its prompt.
        objective: ``listwise``, ``sft`` or ``dpo``.
        student: A predictor that learns along, if the LLM shall learn to be read apart, too.
        student_weight: Weight of its losses: label softmax over the pool's documents, decorrelation from the LLM.
    """

    head: Tensor

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
        self.reader = TorchEngine(causal)
        self.backbone = Backbone(causal, lambda: self.reader)
        self.register_buffer("head", choice_direction(causal, prompt.choice_ids), persistent=False)

    def forward(self, pool: Pool) -> dict[str, Tensor]:
        """Loss of one pool, and the share of its queries whose best document is right."""
        prefixes = self.reader.prefill(self.prompt.document_ids(pool.documents))
        log_odds, positive = self._log_odds(pool, prefixes), pool.positive.to(self.head.device)
        result = {"loss": self._loss(pool, log_odds, positive), "accuracy": _accuracy(log_odds, positive)}
        if self.student is not None:
            apart = self._apart(pool, prefixes)
            asked = pool.asked.to(self.head.device)
            follows = decorrelation(apart[asked], log_odds[asked].detach())
            result["loss"] = result["loss"] + self.student_weight * (listwise(apart, positive) + follows)
            result["student_accuracy"] = _accuracy(apart, positive)
        return result

    def save(self, folder: Path) -> None:
        """Write what is trained; the embeddings never are, so the hub need not be asked about them."""
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        if self.student is not None:
            save_file(self.student.state_dict(), folder / STUDENT)

    def load(self, folder: Path) -> None:
        """Read it back."""
        self.model.load_adapter(str(folder), "default", is_trainable=True)
        if self.student is not None:
            self.student.load_state_dict(load_file(folder / STUDENT))

    def _loss(self, pool: Pool, log_odds: Tensor, positive: Tensor) -> Tensor:
        asked = pool.asked.to(self.head.device)
        if self.objective == "dpo":
            with torch.no_grad(), self.model.disable_adapter():
                prefixes = self.reader.prefill(self.prompt.document_ids(pool.documents))
                reference = self._log_odds(pool, prefixes)
            return dpo(log_odds[asked], reference[asked], positive[asked])
        pair_loss = pointwise(log_odds[asked], positive[asked])
        return pair_loss if self.objective == "sft" else listwise(log_odds, positive) + pair_loss

    def _apart(self, pool: Pool, prefixes: TorchKVCache) -> Tensor:
        """The student's log-odds (n_queries, n_documents); its document states are by-products of the teacher's."""
        z_q = self.reader.read(self.prompt.query_ids(pool.queries, alone=True), "mean")
        with torch.autocast(self.head.device.type, enabled=False):
            return cast(Predictor, self.student).log_odds(z_q, prefixes.means, self.head)

    def _log_odds(self, pool: Pool, prefixes: TorchKVCache) -> Tensor:
        """Log-odds (n_queries, n_documents) of the pairs that are asked, -inf elsewhere."""
        queries = self.prompt.query_ids(pool.queries)
        pairs = pool.asked.nonzero()
        batches = list(token_batches([len(queries[q]) for q in pairs[:, 0].tolist()], TOKEN_BUDGET // 2))
        states = [
            self.reader.encode_with_prefix(prefixes, pairs[batch, 1], [queries[q] for q in pairs[batch, 0].tolist()])
            for batch in batches
        ]
        log_odds = self.head.new_full(pool.asked.shape, float("-inf"))
        rows, columns = pairs[[i for batch in batches for i in batch]].T.to(self.head.device)
        # A sum of products, since a matrix product would be rounded to bfloat16 under autocast.
        return log_odds.index_put((rows, columns), (torch.cat(states) * self.head).sum(1))


def _accuracy(log_odds: Tensor, positive: Tensor) -> Tensor:
    best = log_odds.detach().argmax(1, keepdim=True)
    return positive.gather(1, best).float().mean()


class RerankerTrainer(Trainer):
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
        self._seen: list[dict[str, float]] = getattr(self, "_seen", [])
        self._seen.append({name: value.item() for name, value in outputs.items() if name != "loss"})
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the share of queries whose best document was right, over the steps since the last log."""
        seen, self._seen = getattr(self, "_seen", []), []
        means = {name: round(sum(line[name] for line in seen) / len(seen), 4) for name in (seen[0] if seen else {})}
        super().log({**logs, **means}, start_time)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:  # noqa: ANN401
        return torch.utils.data.SequentialSampler(cast(Any, self.train_dataset))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Checkpoints hold what is trained: the adapter, and the student if there is one."""
        cast(RerankerModule, self.model).save(Path(str(output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        cast(RerankerModule, self.model).load(Path(resume_from_checkpoint))
