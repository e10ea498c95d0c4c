"""`rabtriever serve` as a process of its own, on a copy of an index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from urllib.error import HTTPError

import psutil


class Server:
    """A context manager that starts it and waits until it is ready.

    Args:
        uri: The index to copy; served as it is if ``copy`` is there already.
        model: The retriever.
        copy: Where to.
        options: Further ones of the command.
    """

    def __init__(self, uri: Path, model: str, copy: Path, *options: str) -> None:
        if not copy.is_dir():
            shutil.copytree(uri, copy)
        self.command = [sys.executable, "-m", "rabtriever.cli", "serve", str(copy), "--model", model, "--port", "0"]
        self.command += ["--json", *options]

    def __enter__(self) -> Server:
        """Start."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["url"]
        self.port = int(self.url.rsplit(":", 1)[1])
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/ready").read()
                return self
            except (HTTPError, OSError):
                assert self.process.poll() is None, "the server did not start"
                time.sleep(0.1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, if it still runs."""
        self.process.terminate()
        self.process.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)
