"""Where a model is: a name that ships, a folder or its URI, or a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from rabtriever.errors import InputError, NotFoundError, first_line
from rabtriever.persistence.folder import ADAPTER, CONFIG, ENCODER, local_path, read_config
from rabtriever.persistence.model_card import CARD, model_card

SHIPPED = ("tools",)
ENCODERS = {"minilm": "sentence-transformers/all-MiniLM-L6-v2", "mpnet": "sentence-transformers/all-mpnet-base-v2"}
MODULES = "modules.json"  # of a sentence-transformers model
DIFFERENCE = "difference.json"  # of an encoder that is kept as what changed from another


def resolve_model(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path | None:
    """Finds a model of ours, downloading it if it is on the hub.

    Args:
        name_or_path: ``tools``, a folder or its URI, or a hub id ``owner/name``. What is written like a path, or stands
            in a folder that exists, is never looked up on the hub.
        revision: Branch, tag or commit of a hub id; the main branch if None.
        token: Access token of the hub; the one that is logged in if None.
        local_files_only: Whether to use only what was downloaded before.

    Returns:
        Its folder; None if there is no model of ours by that name (it may be an LLM's).

    Raises:
        InputError: the hub refuses.
    """
    path = local_path(name_or_path)
    if (path / CONFIG).is_file():
        return path
    name = str(name_or_path)
    if name in SHIPPED and not path.exists():
        return shipped_model(name)
    return _download(name, revision, token, local_files_only) if is_hub_id(name) else None


def find_retriever(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path | None:
    """Returns the folder of a retriever, found as :func:`resolve_model` does; None if the name is an encoder's.

    Raises:
        NotFoundError: there is neither.
    """
    where = {"revision": revision, "token": token, "local_files_only": local_files_only}
    folder = resolve_model(name_or_path, **where)  # type: ignore[arg-type]
    if folder is None and not is_sentence_model(name_or_path, **where):  # type: ignore[arg-type]
        tried = "on the hub or in its cache" if is_hub_id(str(name_or_path)) else f"there (no {CONFIG}, no {MODULES})"
        accepted = "give `tools`, a folder of `rabtriever distill`, a hub id, or an encoder such as `minilm`"
        raise NotFoundError(f"{name_or_path}: no model {tried}; {accepted}")
    return folder


def is_sentence_model(
    name_or_path: str | Path, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> bool:
    """Returns whether a name is a sentence-transformers model's: of :data:`ENCODERS`, a folder or a repository."""
    name = str(name_or_path)
    folder = local_path(name)
    if name in ENCODERS or (folder / MODULES).is_file() or (folder / DIFFERENCE).is_file():
        return True
    if not is_hub_id(name):
        return False
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, MODULES, revision=revision, token=token, local_files_only=local_files_only)
    except Exception:  # no such file or repository, or no network: who loads it as something else says so
        return False
    return True


def shipped_model(name: str) -> Path:
    """Returns the folder of a model that ships: in an installed wheel, or in a checkout; else raises NotFoundError."""
    package = Path(__file__).parents[1]
    for root in (package, package.parents[1]):
        if (root / "models" / name / CONFIG).is_file():
            return root / "models" / name
    raise NotFoundError(f"{name}: the model that ships is not installed; give a folder, or reinstall rabtriever")


def is_hub_id(name: str) -> bool:
    """Returns whether a name can only be ``owner/name`` on the hub, not a path, mistyped or not."""
    owner, separator, model = name.partition("/")
    written_so = separator and owner and model and "/" not in model and "\\" not in name
    return bool(written_so) and not name.startswith((".", "~")) and not Path(owner).is_dir()


def upload_model(
    folder: Path, repo_id: str, *, private: bool | None, token: str | None, commit_message: str | None
) -> str:
    """Uploads a model's folder to a repository of the hub, made if it does not exist; returns the commit's URL.

    Raises:
        InputError: the hub refuses or cannot be reached, or the LLM is a folder, which nobody else has.
    """
    config = read_config(folder)
    for name in (config.get("llm"), config.get("cross_encoder"), config.get("encoder", {}).get("name")):
        if name and Path(name).is_absolute() and folder.resolve() not in Path(name).parents:
            raise InputError(f"{repo_id}: {name} is a folder of this machine; train on a hub id to share the model")
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id  # with the owner, if none was given
        (folder / CARD).write_text(model_card(config, name), encoding="utf-8")
        commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message=commit_message)
    except Exception as error:  # the network makes it fail in many ways
        raise InputError(
            f"{repo_id}: nothing was uploaded ({first_line(error)}); check the id and the token"
        ) from error
    return str(commit.commit_url)


def _download(name: str, revision: str | None, token: str | None, local_files_only: bool) -> Path | None:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    patterns = [CONFIG, CARD, "*.safetensors", "*.jsonl", f"{ADAPTER}/*", f"{ENCODER}/*"]
    try:
        # First this file alone: a repository without it is an LLM's, which transformers downloads.
        hf_hub_download(name, CONFIG, revision=revision, token=token, local_files_only=local_files_only)
        folder = snapshot_download(
            name, revision=revision, token=token, local_files_only=local_files_only, allow_patterns=patterns
        )
    except EntryNotFoundError:
        return None
    except Exception as error:  # the network makes it fail in many ways
        raise InputError(
            f"{name}: the hub gave nothing ({first_line(error)}); check the id, revision and token"
        ) from error
    return Path(folder)
