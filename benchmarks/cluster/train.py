"""A reranker's training in two processes against one: the same losses, and how long a step takes.

python benchmarks/record.py benchmarks/results/cluster/train.json python benchmarks/cluster/train.py --quick
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "src/rabtriever/demo"
CONFIG = ROOT / "deploy/accelerate/cpu.yaml"
STEPS = 20
QUICK = {"documents_per_step": 3, "queries_per_step": 4, "negatives": 1, "lora_depth": 0.34}
WHOLE = {"documents_per_step": 8, "queries_per_step": 8, "negatives": 3, "lora_depth": 0.67}
PROMPT = {"document_tokens": 32, "query_tokens": 24}  # short texts


def measure(quick: bool) -> dict[str, float]:
    """Trains SmolLM2-135M in float32 for 20 steps, in one process and in two of one thread each.

    Returns:
        ``train_loss_diff``, the greatest difference of the losses of a step; ``train_loss``, the mean of the last five;
        ``train_step_seconds_1`` and ``_2``, a step's mean after the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        alone, both = (_train(Path(folder), processes, quick) for processes in (1, 2))
    pairs = zip(alone["losses"], both["losses"], strict=True)
    return {
        "train_loss_diff": max(abs(one - two) for one, two in pairs),
        "train_loss": sum(alone["losses"][-5:]) / 5,
        "train_step_seconds_1": round(alone["seconds"], 3),
        "train_step_seconds_2": round(both["seconds"], 3),
    }


def _train(folder: Path, processes: int, quick: bool) -> dict:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(CONFIG)]
        launcher += ["--num_processes", str(processes), "--main_process_port", "0"]
    out = folder / str(processes)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, __file__, "--run", str(out), "--quick" if quick else "--whole"]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr, timeout=600)
    return json.loads(out.with_suffix(".json").read_text())


def _run(out: Path, quick: bool) -> None:
    """What each process does."""
    from rabtriever import load_data
    from rabtriever.llm.prompt import PromptTemplate
    from rabtriever.training import train_reranker
    from rabtriever.training.config import RerankerTrainingConfig

    class Recorder:
        losses: list[float] = []
        times: list[float] = []

        def on_log(self, step, metrics):
            if "loss" in metrics:
                self.losses.append(metrics["loss"])
                self.times.append(time.perf_counter())

    usual = train_reranker._arguments

    def logging_each_step(*args):
        arguments = usual(*args)
        arguments.logging_steps = 1
        return arguments

    train_reranker._arguments = logging_each_step
    # Not mined: that would be the same in both and take most of the time.
    config = RerankerTrainingConfig(
        steps=STEPS, hard_negative_share=0.0, checkpoint_every=1000, **(QUICK if quick else WHOLE)
    )
    template, recorder, data = PromptTemplate(**PROMPT), Recorder(), load_data(DEMO)
    data = replace(data, qrels={"train": data.qrels["test"]})
    train_reranker.train_reranker(
        data, out, prompt=template, config=config, callbacks=[recorder], device="cpu", dtype="float32"
    )
    if recorder.losses:  # in the first process
        seconds = (recorder.times[-1] - recorder.times[0]) / (STEPS - 1)
        out.with_suffix(".json").write_text(json.dumps({"losses": recorder.losses, "seconds": seconds}))


if __name__ == "__main__":
    if "--run" in sys.argv:
        _run(Path(sys.argv[2]), "--quick" in sys.argv)
    else:
        print(json.dumps(measure("--quick" in sys.argv)))
