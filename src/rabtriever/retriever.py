"""The student: query and document encoded apart by the teacher's own LLM, judged together by the folded predictor."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rabtriever.calibration import Calibration
from rabtriever.errors import InputError, first_line
from rabtriever.fold import folded_scores
from rabtriever.llm.backbone import Pooling
from rabtriever.llm.folder import ADAPTER, new_folder, read_config, write_config
from rabtriever.predictor import Predictor
from rabtriever.recent import Recent
from rabtriever.reranker import GenerativeReranker

PREDICTOR = "predictor.safetensors"
LONGEST = 4096  # characters of a text that is worth remembering


class Rabtriever:
    """A retriever distilled from a generative reranker (arXiv 2604.23336).

    Args:
        teacher: The reranker; its LLM, frozen, is the encoder.
        predictor: The trained predictor.
        pooling: How a segment's state is read.
        calibration: What makes its log-odds a probability.
        query_cache: How many queries' encodings to remember, those last used; 0 remembers none.
        document_cache: How many documents' latents to remember.

    Attributes:
        known: ``query`` and ``document``: text -> float32 (dim,), those last used.
    """

    def __init__(
        self,
        teacher: GenerativeReranker,
        predictor: Predictor,
        pooling: Pooling = "mean",
        calibration: Calibration | None = None,
        query_cache: int = 10_000,
        document_cache: int = 0,
    ) -> None:
        self.known: dict[str, Recent[str, np.ndarray]] = {
            "query": Recent(query_cache),
            "document": Recent(document_cache),
        }
        self.calibration = calibration or Calibration()
        self.teacher, self.predictor, self.pooling = teacher, predictor.eval(), pooling
        self.source: str | None = None  # the folder it was loaded from or saved to
        self._fold = predictor.fold(teacher.w)
        self.positive = self._fold.positive
        self.dim = len(self._fold.units_q.bias) + 1
        digest = hashlib.sha256(f"{teacher.fingerprint}/{pooling}/{predictor.kind}".encode())
        for name, value in sorted(predictor.state_dict().items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        query_cache: int = 10_000,
        document_cache: int = 0,
        **options: Any,  # noqa: ANN401
    ) -> Rabtriever:
        """Load a retriever.

        Args:
            folder: What ``save_pretrained`` or ``rabtriever distill`` wrote.
            query_cache: How many queries' encodings to remember; 0 remembers none.
            document_cache: How many documents' latents to remember.
            **options: ``dtype``, ``device`` and ``backend`` of the LLM.

        Raises:
            InputError: no retriever there.
        """
        config = read_config(folder)
        if "predictor" not in config:
            raise InputError(
                f"{folder}: a reranker, not a retriever; make one with `rabtriever distill --teacher {folder}`"
            )
        weights = Path(folder) / PREDICTOR
        if not weights.is_file():
            raise InputError(f"{folder}: {PREDICTOR} is missing; copy the whole folder or distill again")
        try:
            shape = config["predictor"]
            predictor = Predictor(shape["hidden_size"], shape["width"], kind=shape["kind"])
            predictor.load_state_dict(load_file(weights))
            pooling = config["pooling"]
            calibration = Calibration(**config.get("calibration", {}).get("retriever", {}))
        except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: a broken retriever ({first_line(error)}); distill it again") from error
        teacher = GenerativeReranker.from_pretrained(folder, **options)
        retriever = cls(teacher, predictor, pooling, calibration, query_cache, document_cache)
        retriever.source = str(folder)
        return retriever

    def save_pretrained(
        self, folder: str | Path, notes: dict[str, Any] | None = None, log: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Write the retriever, its teacher's adapter included, so that the folder is also the reranker.

        Args:
            folder: To make; it must not exist.
            notes: Further JSON values for the configuration, such as how it was trained.
            log: Lines of its training, kept as ``distill_log.jsonl``.

        Raises:
            InputError: ``folder`` exists.
        """
        llm = self.teacher.llm
        with new_folder(folder) as new:
            if llm.adapter is not None:
                shutil.copytree(llm.adapter, new / ADAPTER)
            save_file(self.predictor.state_dict(), new / PREDICTOR)
            shape = {
                "kind": self.predictor.kind,
                "hidden_size": self.predictor.query.in_features,
                "width": self.dim - 1,
            }
            config = {"llm": llm.source, "prompt": self.teacher.template.to_dict(), "pooling": self.pooling}
            both = {"retriever": asdict(self.calibration), "reranker": asdict(self.teacher.calibration)}
            write_config(new, {**config, "predictor": shape, "calibration": both, **(notes or {})})
            if log:
                lines = "".join(json.dumps(line) + "\n" for line in log)
                (new / "distill_log.jsonl").write_text(lines, encoding="utf-8")
        self.source = str(folder)

    def encode_query(self, texts: Sequence[str], show_progress: bool = False) -> np.ndarray:
        """Queries to what the folded score needs of them; those that it remembers cost nothing.

        Args:
            texts: n queries.
            show_progress: Tell on stderr how far it is.

        Returns:
            float32 (n, dim); the last column is the bias.

        Raises:
            InputError: a query of zero tokens.
        """
        return self._encode("query", texts, show_progress)

    def encode_document(self, texts: Sequence[str], show_progress: bool = False) -> np.ndarray:
        """Documents to latents; like :meth:`encode_query`.

        Returns:
            float32 (n, dim); the last column is the bias.
        """
        return self._encode("document", texts, show_progress)

    def similarity(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """The student's log-odds for every query and document.

        Args:
            queries: float32 (n, dim) from :meth:`encode_query`.
            documents: float32 (k, dim) from :meth:`encode_document`.

        Returns:
            float32 (n, k).
        """
        return folded_scores(np.atleast_2d(queries), np.atleast_2d(documents), self.positive)

    def _encode(self, side: str, texts: Sequence[str], show_progress: bool) -> np.ndarray:
        fold, known = getattr(self._fold, side), self.known[side]
        if not known.capacity or isinstance(texts, str):
            rows: np.ndarray = fold(self.states(side, texts, show_progress).numpy())
            return rows
        found = {text: known.get(text) for text in texts}
        new = [text for text, row in found.items() if row is None]
        if new:
            rows = fold(self.states(side, new, show_progress).numpy())
            found |= {text: row.copy() for text, row in zip(new, rows, strict=True)}  # a view would keep all the others
        for text in new[-known.capacity :]:
            if len(text) <= LONGEST:
                known.put(text, found[text])  # type: ignore[arg-type]
        return np.stack([found[text] for text in texts]) if found else np.empty((0, self.dim), np.float32)  # type: ignore[misc]

    def states(self, side: str, texts: Sequence[str], show_progress: bool = False) -> Tensor:
        """z_q or z_d: float32 (n, H), before the predictor.

        Args:
            side: ``query`` or ``document``.
            texts: n texts.
            show_progress: Tell on stderr how far it is.
        """
        return encode(self.teacher, side, texts, self.pooling, show_progress)


def encode(
    teacher: GenerativeReranker, side: str, texts: Sequence[str], pooling: Pooling, show_progress: bool = False
) -> Tensor:
    """The frozen LLM's states of queries or documents read alone: float32 (n, H)."""
    prompt = teacher.prompt
    ids = prompt.query_ids(texts, alone=True) if side == "query" else prompt.document_ids(texts)
    states: Tensor = teacher.backbone.states(ids, pooling, f"reading {side} texts" if show_progress else None)
    return states.clone() if states.is_inference() else states
