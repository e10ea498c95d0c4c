"""What the frozen LLM said, kept on disk: a pair is scored once, a text read once, however often training is run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rabtriever.errors import InputError
from rabtriever.llm.backbone import Pooling
from rabtriever.progress import Progress
from rabtriever.rerankers.generative import GenerativeReranker
from rabtriever.retriever import encode

CHUNK = 1024  # vectors between writes: what an interruption can lose


class TeacherCache:
    """The teacher's context embeddings and the student's states of one reranker.

    The reranker's fingerprint (weights, adapter, prompt) names the folder, a hash of the texts the vector.

    Args:
        teacher: The reranker.
        folder: Where caches lie; by default ``$RABTRIEVER_CACHE/states``.
    """

    def __init__(self, teacher: GenerativeReranker, folder: str | Path | None = None) -> None:
        root = Path(
            folder or Path(os.environ.get("RABTRIEVER_CACHE", Path.home() / ".cache" / "rabtriever")) / "states"
        )
        self.teacher = teacher
        self.folder = root / teacher.fingerprint[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.vectors: dict[bytes, np.ndarray] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._read(shard)

    def context_embeddings(self, queries: Sequence[str], documents: Sequence[str], pairs: Tensor) -> tuple[Tensor, int]:
        """The teacher's z*(q, d), computed where it is not known yet.

        Args:
            queries: Texts.
            documents: Texts.
            pairs: int64 (n, 2) of (query, document) positions.

        Returns:
            float32 (n, H), and how many of the pairs the teacher had to score.
        """
        keys = [_key("pair", queries[q], documents[d]) for q, d in pairs.tolist()]
        # Pairs of one document side by side: a chunk then reads few documents.
        order = torch.argsort(pairs[:, 1], stable=True).tolist()
        return self._fetch(
            keys,
            order,
            lambda rows: self.teacher.context_embeddings(queries, documents, pairs[rows]),
            "teacher calls",
        )

    def states(self, side: str, texts: Sequence[str], pooling: Pooling) -> Tensor:
        """The student's z_q (side ``query``) or z_d (side ``document``): float32 (n, H)."""
        keys = [_key(side, pooling, text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        return self._fetch(
            keys, order, lambda rows: encode(self.teacher, side, [texts[i] for i in rows], pooling), f"{side} states"
        )[0]

    def _fetch(
        self, keys: list[bytes], order: list[int], compute: Callable[[list[int]], Tensor], label: str
    ) -> tuple[Tensor, int]:
        first = {keys[i]: i for i in reversed(order) if keys[i] not in self.vectors}
        missing = [i for i in order if first.get(keys[i]) == i]
        with Progress(label, len(missing)) as bar:
            for start in range(0, len(missing), CHUNK):
                rows = missing[start : start + CHUNK]
                vectors = compute(rows).float().contiguous()
                self._write([keys[i] for i in rows], vectors)
                bar.advance(len(rows))
        return torch.from_numpy(np.stack([self.vectors[key] for key in keys])), len(missing)

    def _write(self, keys: list[bytes], vectors: Tensor) -> None:
        table = torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1).copy())
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        os.close(handle)
        try:
            save_file({"keys": table, "vectors": vectors}, temporary)
            os.replace(temporary, self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}.safetensors")
        finally:
            Path(temporary).unlink(missing_ok=True)
        self.vectors |= zip(keys, vectors.numpy(), strict=True)

    def _read(self, shard: Path) -> None:
        try:
            stored = load_file(shard)
        except SafetensorError as error:
            raise InputError(f"{shard}: not a readable cache file ({error}); delete it") from error
        self.vectors |= zip(map(bytes, stored["keys"].numpy()), stored["vectors"].numpy(), strict=True)


def _key(*parts: str) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]
