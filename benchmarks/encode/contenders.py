"""What reads token ids into states without us, and each contender in a process of its own."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from texts import BATCH, sentence_transformer

from rabtriever import Rabtriever

Forward = Callable[[np.ndarray, np.ndarray], Any]  # ids and mask (n, L) -> states (n, L, H)


def states(forward: Forward, sequences: Sequence[Sequence[int]], pooling: str = "mean") -> torch.Tensor:
    """Batches in the order given, padded on the right, masked; float32 (n, H), pooled as ours are."""
    found = []
    for start in range(0, len(sequences), BATCH):
        batch = sequences[start : start + BATCH]
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
        hidden = torch.as_tensor(forward(ids, mask)).float()
        weights = torch.from_numpy(mask)
        if pooling == "last":
            found.append(hidden[torch.arange(len(batch)), weights.sum(1) - 1])
        else:
            weights[:, 0] = 0
            found.append((hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))
    return torch.cat(found)


def transformers(decoder: Any, ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    """As its documentation shows it."""
    with torch.inference_mode():
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        on_device = {name: tensor.to(decoder.device) for name, tensor in inputs.items()}
        return decoder(**on_device, use_cache=False).last_hidden_state.cpu()


def compiled(decoder: Any) -> Forward:
    """torch.compile with packed weights (inductor's freezing), shapes dynamic."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    run = torch.compile(decoder, dynamic=True)

    def forward(ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            return run(**inputs, use_cache=False).last_hidden_state

    return forward


class States(torch.nn.Module):
    """The decoder as exporters want it."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """States after the final norm."""
        return self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state


def example() -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, dict[int, Any]]]:
    """Inputs to export with, and what may vary."""
    ids = torch.arange(66).view(2, 33) + 10
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    return (ids, torch.ones_like(ids)), {name: {0: batch, 1: tokens} for name in ("input_ids", "attention_mask")}


def onnxruntime(decoder: Any, quantised: bool) -> Forward:
    """ONNX Runtime on the CPU; quantised: int8 weights a channel, activations when they come."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    inputs, shapes = example()
    names = {"input_names": ["input_ids", "attention_mask"], "dynamic_shapes": shapes}
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "model.onnx", Path(folder) / "small.onnx"
        torch.onnx.export(States(decoder), inputs, path, dynamo=True, external_data=True, verbose=False, **names)
        if quantised:
            options: dict[str, Any] = {"per_channel": True, "use_external_data_format": True}
            options["extra_options"] = {"MatMulConstBOnly": True}
            quantize_dynamic(path, small, weight_type=QuantType.QInt8, **options)
        session = onnxruntime.InferenceSession(small if quantised else path, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def openvino(decoder: Any, precision: str) -> Forward:
    """OpenVINO; int8: weights a channel by NNCF, activations a row when they come."""
    import openvino

    inputs, shapes = example()
    model = openvino.convert_model(torch.export.export(States(decoder), inputs, dynamic_shapes=shapes, strict=False))
    options = {"PERFORMANCE_HINT": "LATENCY"}
    if precision == "int8":
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(decoder.config.hidden_size)
    else:
        options["INFERENCE_PRECISION_HINT"] = precision
    run = openvino.Core().compile_model(model, "CPU", options)
    return lambda ids, mask: run({"input_ids": ids, "attention_mask": mask})[0]


OURS: dict[str, dict[str, Any]] = {
    "torch float32": {"dtype": torch.float32, "backend": "torch"},
    "torch bfloat16": {"dtype": torch.bfloat16, "backend": "torch"},
    "int8": {"backend": "int8"},
}
OTHERS: dict[str, tuple[torch.dtype, Callable[[Any], Forward]]] = {
    "transformers float32": (torch.float32, lambda decoder: partial(transformers, decoder)),
    "transformers bfloat16": (torch.bfloat16, lambda decoder: partial(transformers, decoder)),
    "torch.compile bfloat16": (torch.bfloat16, compiled),
    "ONNX Runtime float32": (torch.float32, lambda decoder: onnxruntime(decoder, False)),
    "ONNX Runtime int8": (torch.float32, lambda decoder: onnxruntime(decoder, True)),
    "OpenVINO float32": (torch.float32, lambda decoder: openvino(decoder, "f32")),
    "OpenVINO bfloat16": (torch.float32, lambda decoder: openvino(decoder, "bf16")),
    "OpenVINO int8": (torch.float32, lambda decoder: openvino(decoder, "int8")),
}
SENTENCES = "sentence-transformers bfloat16"


class Contender:
    """One contender in a process of its own, so that memory is its own and no runtime's threads disturb another's.

    Args:
        name: Of :data:`OURS`, :data:`OTHERS` or :data:`SENTENCES`.
        model: Folder of the retriever.
        texts: Documents.
        jobs: Other token ids to read, each with its pooling.
    """

    def __init__(
        self, name: str, model: str, texts: Sequence[str], jobs: dict[str, tuple[list[list[int]], str]]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, name, model, list(texts), jobs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def __call__(self, job: str) -> tuple[float, torch.Tensor, int]:
        """Seconds, states, and the process's peak memory meanwhile, in MB."""
        time.sleep(0.3)  # threads of the one before may still be spinning
        self.pipe.send(job)
        seconds, found, peak = self.pipe.recv()
        return seconds, torch.from_numpy(found), peak

    def close(self) -> None:
        """End the process."""
        self.pipe.send(None)
        self.process.join()


def _serve(pipe: Any, name: str, model: str, texts: list[str], jobs: dict[str, tuple[list[list[int]], str]]) -> None:
    if name in OURS:
        retriever = Rabtriever.from_pretrained(model, query_cache=0, **OURS[name])
        read: Callable[..., Any] = retriever.reranker.llm.backbone.states
    else:
        dtype = torch.bfloat16 if name == SENTENCES else OTHERS[name][0]
        retriever = Rabtriever.from_pretrained(model, query_cache=0, dtype=dtype, backend="torch")
        if name != SENTENCES:
            read = partial(states, OTHERS[name][1](retriever.reranker.llm.loaded.model.get_decoder()))
    ids = retriever.reranker.llm.prompt.document_ids(texts)
    if name == SENTENCES:
        llm = retriever.reranker.llm.loaded
        encode, _ = sentence_transformer(llm.model, llm.tokenizer, texts, max(map(len, ids)))
        read = lambda ids, pooling: torch.as_tensor(encode())  # noqa: E731
    jobs = {"documents": (ids, "mean"), **jobs}
    pipe.send("ready")
    while (job := pipe.recv()) is not None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started = time.perf_counter()
        found = read(*jobs[job])
        seconds = time.perf_counter() - started
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
        pipe.send((seconds, found.numpy(), peak))
