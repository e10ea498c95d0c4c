"""Single short texts on CUDA by recorded graphs: one launch a text instead of one a kernel, hundreds of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rabtriever.llm.backbone import Pooling
from rabtriever.llm.torch_reader import TorchReader, pool

SIZES = (16, 32, 64, 128, 256, 512)  # tokens of a graph; a text takes the next larger one


class GraphReader(TorchReader):
    """As :class:`TorchReader`, but a text read alone replays a CUDA graph, recorded when its size is first met.

    The text is padded to the graph's size on its right, where a causal LLM's padding changes nothing before it, so
    that no mask is needed and SDPA may take FlashAttention.

    Args:
        model: The LLM, on CUDA.
    """

    name = "cuda-graphs"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._lock = Lock()  # a graph has one place for its input
        self._graphs: dict[tuple[int, Pooling], Callable[[Tensor, int], Tensor]] = {}

    @torch.inference_mode()
    def read(self, sequences: Sequence[Sequence[int]], pooling: Pooling = "last") -> Tensor:
        """One state per sequence: float32 (n, H) on the model's device."""
        if len(sequences) != 1 or len(sequences[0]) > SIZES[-1]:
            return super().read(sequences, pooling)
        ids = torch.as_tensor(sequences[0])
        key = next(size for size in SIZES if size >= len(ids)), pooling
        with self._lock:
            if key not in self._graphs:
                self._graphs[key] = self._record(*key)
            return self._graphs[key](ids, len(ids)).clone()

    def _record(self, size: int, pooling: Pooling) -> Callable[[Tensor, int], Tensor]:
        """A function of token ids and how many they are, which runs the recorded kernels."""
        ids = torch.zeros(1, size, dtype=torch.long, device=self.device)
        length = torch.ones(1, dtype=torch.long, device=self.device)

        def run() -> Tensor:
            return pool(self.decoder(input_ids=ids, use_cache=False).last_hidden_state.float(), length, pooling)

        replay, state = record(run, self.device)

        def read(text: Tensor, count: int) -> Tensor:
            ids[0, :count].copy_(text)  # what stands behind it is never looked at
            length.fill_(count)
            replay()
            return state()

        return read


def record(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], object], Callable[[], Tensor]]:
    """A CUDA graph of ``run``: how to replay it, and where its result is then.

    Args:
        run: What to record; it reads and writes the same memory at every call.
        device: CUDA.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # libraries allocate what they need outside the recording
        for _ in range(2):
            run()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # On this very device, and whatever other threads do meanwhile.
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        result = run()
    return graph.replay, lambda: result
