"""Data sets of the Hugging Face hub, read from the Parquet files that it keeps of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rabtriever.errors import InputError, NotFoundError, first_line
from rabtriever.sources.places import Placed
from rabtriever.sources.tables import Columns, parquet_rows, row_documents

HUB = "hf:"
PARQUET = "refs/convert/parquet"  # the hub's own branch, the same layout whatever files the owner uploaded


def hub_documents(source: str, columns: Columns) -> Iterator[Placed]:
    """Yields the rows of a data set; what was downloaded before is read from the cache where the hub is out of reach.

    Args:
        source: ``hf:owner/name``, ``hf:owner/name:config`` or ``hf:owner/name:config:split``; what is left out is
            what there is one of, or else the config ``default`` or ``corpus``, the split ``corpus`` or ``train``.
        columns: Names of its columns.

    Raises:
        NotFoundError: no such data set, config or split.
    """
    name, config, split = (*source.removeprefix(HUB).split(":"), "", "")[:3]
    files = _files(name)
    config = _choose(source, "config", config, [file.parts[0] for file in files], ("default", "corpus"))
    files = [file for file in files if file.parts[0] == config]
    split = _choose(source, "split", split, [file.parts[1] for file in files], ("corpus", "train"))
    for file in files:
        if file.parts[1] == split:
            for place, document in row_documents(parquet_rows(_download(name, str(file))), columns):
                yield f"{source}, {file}{place[place.rindex(', ') :]}", document


def _files(name: str) -> list[PurePosixPath]:
    """Returns the paths ``config/split/file.parquet`` of a data set, in their order."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        names = HfApi().list_repo_files(name, revision=PARQUET, repo_type="dataset")
    except Exception as error:  # the network makes it fail in many ways
        try:
            folder = Path(snapshot_download(name, revision=PARQUET, repo_type="dataset", local_files_only=True))
        except Exception:
            raise NotFoundError(
                f"{HUB}{name}: the hub gave no Parquet files of it, and none were downloaded before "
                f"({first_line(error)}); check the name, or download a file and give that"
            ) from error
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
    paths = sorted(map(PurePosixPath, names))
    return [path for path in paths if path.suffix == ".parquet" and len(path.parts) == 3]


def _choose(source: str, kind: str, asked: str, names: list[str], usual: tuple[str, ...]) -> str:
    """Returns the config or split to read: the one that was asked for, the only one, or a usual one."""
    existing = list(dict.fromkeys(names))
    found = [asked] if asked else existing if len(existing) == 1 else usual
    chosen = next((name for name in found if name in existing), None)
    if chosen is None:
        missing = f"no {kind} {asked!r}" if asked else f"more than one {kind}" if existing else f"no {kind}"
        listed = ", ".join(existing) or "none"
        raise NotFoundError(f"{source}: {missing}; there are {listed}: give hf:owner/name:config:split")
    return chosen


def _download(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, revision=PARQUET, repo_type="dataset"))
    except Exception as error:
        raise InputError(f"{HUB}{name}: {file} cannot be downloaded ({first_line(error)}); try again") from error
