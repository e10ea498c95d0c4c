"""Where a model is: a name that ships, a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from rabtriever.errors import InputError, NotFoundError, first_line
from rabtriever.persistence.folder import ADAPTER, CONFIG

SHIPPED = ("tools",)


class HubOptions(TypedDict, total=False):
    """Options of a hub id.

    Attributes:
        revision: Branch, tag or commit; the main branch by default.
        token: Access token; the one that is logged in by default.
        local_files_only: Whether to use only what was downloaded before.
    """

    revision: str | None
    token: str | None
    local_files_only: bool


def shipped_model(name: str) -> Path:
    """Returns the folder of a model that ships: in an installed wheel, or in a checkout.

    Raises:
        NotFoundError: it is in neither.
    """
    package = Path(__file__).parents[1]
    for root in (package, package.parents[1]):
        if (root / "models" / name / CONFIG).is_file():
            return root / "models" / name
    raise NotFoundError(f"{name}: the model that ships is not installed; give a folder, or reinstall rabtriever")


def resolve_model(name_or_path: str | Path, hub: HubOptions | None = None) -> Path | None:
    """Finds a model of ours, downloading it if it is on the hub.

    Args:
        name_or_path: ``tools``, a folder, or a hub id ``owner/name``.
        hub: Options of a hub id.

    Returns:
        Its folder; None if there is no model of ours by that name (it may be an LLM's).

    Raises:
        InputError: the hub refuses, or cannot be reached and has no copy here.
    """
    path = Path(name_or_path).expanduser()
    if (path / CONFIG).is_file():
        return path.resolve()
    name = str(name_or_path)
    if name in SHIPPED and not path.exists():
        return shipped_model(name)
    if path.exists() or not _is_hub_id(name):
        return None
    return _download(name, hub or {})


def _is_hub_id(name: str) -> bool:
    owner, separator, model = name.partition("/")
    return bool(separator and owner and model) and "/" not in model and not name.startswith((".", "~"))


def _download(name: str, hub: HubOptions) -> Path | None:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(name, CONFIG, **hub)
    except LocalEntryNotFoundError:
        return None  # an LLM that was downloaded before has no such file here either
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"{name}: the hub gave nothing ({first_line(error)}); check the id, revision and token"
        ) from error
    patterns = ["*.json", "*.safetensors", "*.jsonl", f"{ADAPTER}/*"]
    return Path(snapshot_download(name, allow_patterns=patterns, **hub))
