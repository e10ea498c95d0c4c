"""What commands have in common: flags from a config dataclass and back, the model, the data, the index, the output."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_type_hints

from rabtriever.choices import BACKENDS, DTYPES, PRESETS
from rabtriever.errors import InputError
from rabtriever.progress import is_shown
from rabtriever.training import processes

if TYPE_CHECKING:
    from rabtriever.data import RetrievalData
    from rabtriever.index import Index

Config = TypeVar("Config")

SOURCE_HELP = (
    "a tool list, an mcpServers file, an OpenAPI document, a folder of SKILL.md or Markdown files, JSON, JSONL, CSV, "
    "Parquet, a BEIR folder or zip, or hf:owner/name (docs/catalogues.md)"
)
WORKER_OPTIONS = ("ray_workers", "ray_cpus", "ray_gpus")
PROMPT_OPTIONS = ("preset", "task", "document_name", "query_name")

# Old flags work until the next release, with a line on stderr.
RENAMED_FLAGS = {
    "train": {
        "--hard": "--hard-negative-share",
        "--per-task": "--max-queries-per-dataset",
        "--pool": "--documents-per-step",
        "--queries": "--queries-per-step",
    },
    "distill": {
        "--calibration": "--calibration-queries",
        "--mse-weight": "--embedding-weight",
        "--pairs": "--pairs-per-query",
        "--per-task": "--max-queries-per-dataset",
        "--width": "--hidden-units",
    },
    "evaluate": {"--depth": "--rerank-all-up-to"},
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the fault and exits with 2."""
        processes.let_first_speak()
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def rename_flags(argv: Sequence[str]) -> list[str]:
    """Returns the arguments with a command's old flags (:data:`RENAMED_FLAGS`) replaced by the new ones."""
    renamed = RENAMED_FLAGS.get(argv[0], {}) if argv else {}
    result = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name in renamed:
            message = f"{name} is now {renamed[name]}; the old flag goes with the next release"
            print(f"rabtriever {argv[0]}: {message}", file=sys.stderr)
        result.append(renamed.get(name, name) + equals + value)
    return result


def add_config_arguments(parser: argparse._ActionsContainer, config: type[Any], left_out: Sequence[str] = ()) -> None:
    """Adds one flag per field of a dataclass, but for those that are ``left_out``.

    Its fields are ``int``, ``float`` or ``str``, optional or not, or a ``bool`` that is False by default; their
    metadata hold ``help`` and, if only some values are allowed, ``choices``.
    """
    hints = get_type_hints(config)
    for field in (field for field in fields(config) if field.name not in left_out):
        hint = hints[field.name]
        if hint is bool:
            parser.add_argument("--" + field.name.replace("_", "-"), action="store_true", help=field.metadata["help"])
            continue
        kind = next(kind for kind in get_args(hint) or (hint,) if kind is not type(None))
        choices = field.metadata.get("choices")
        shown = field.metadata.get("shown", "none" if field.default is None else field.default)
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=kind,
            default=field.default,
            choices=choices,
            metavar=None if choices else kind.__name__.upper(),
            help=f"{field.metadata['help']} (default: {shown})",
        )


def config_from_args(args: argparse.Namespace, config: type[Config]) -> Config:
    """Returns the dataclass that the flags describe; raises InputError for a value out of its range."""
    given = {field.name: getattr(args, field.name) for field in fields(config) if hasattr(args, field.name)}  # type: ignore[arg-type]
    return config(**given)


def add_model_arguments(parser: argparse.ArgumentParser, model: str | None = None, *, backend: bool = True) -> None:
    """Adds ``--device``, ``--dtype``, ``--backend`` unless it is left out, and ``--model`` if its help is given."""
    if model:
        parser.add_argument("--model", help=model)
    device_help = "cpu, cuda, cuda:1, ... (default: cuda if any)"
    parser.add_argument("--device", type=_device, metavar="DEVICE", help=device_help)
    parser.add_argument("--dtype", choices=DTYPES, help="of the LLM's weights (default: what the hardware multiplies)")
    if backend:
        parser.add_argument("--backend", choices=BACKENDS, help="what runs the LLM (default: auto)")


def add_teacher_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Adds the models that teach, the prompt of LLMs among them that are used as they are, and options of servers."""
    from rabtriever.rerankers.remote.options import RemoteOptions

    parser.add_argument(
        "--teacher",
        action="append",
        default=[],
        required=required,
        metavar="NAME",
        help="an encoder (minilm, mpnet, a sentence-transformers model), a cross-encoder, a reranker of ours (tools, a "
        "folder of `rabtriever train`), any LLM, or a server, PROTOCOL+URL#MODEL; again for a weighted sum",
    )
    add_prompt_arguments(parser)
    add_config_arguments(parser.add_argument_group("teachers behind HTTP"), RemoteOptions, PROMPT_OPTIONS)


def add_generator_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the LLM that writes requests."""
    parser.add_argument(
        "--generator", metavar="LLM", help="an instruct LLM that writes requests: a hub id, a folder or a .gguf file"
    )


def generate(args: argparse.Namespace, n: int, path: str) -> int:
    """Lets ``--generator`` write ``n`` requests for each document of the source ``args.data[0]``; returns how many."""
    if not args.generator:
        raise InputError("--generator: name the instruct LLM that writes the requests", param="generator")
    from rabtriever.sources import read_source

    documents = list(read_source(args.data[0], **source_columns(args)))
    from rabtriever.llm.loading import load_llm
    from rabtriever.training.generate import generate_requests

    llm = load_llm(args.generator, **load_options(args))
    return generate_requests(documents, llm, path, n, seed=args.seed, show_progress_bar=is_shown())


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what ``from_pretrained`` takes of these arguments; those that were not given are left out."""
    given = {name: getattr(args, name) for name in ("device", "dtype", "backend")}
    return {name: value for name, value in given.items() if value is not None}


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the prompt of an LLM that is used as it is."""
    parser.add_argument("--preset", choices=PRESETS, help="prompt of an LLM that is used as it is (default: plain)")
    parser.add_argument("--task", help="one sentence for that prompt: what is matched with what")
    parser.add_argument("--document-name", metavar="NAME", help="what the chat prompt calls a document, such as Tool")
    parser.add_argument("--query-name", metavar="NAME", help="what the chat prompt calls a query, such as Request")


def prompt_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what `load_reranker` takes of :func:`add_prompt_arguments`; what was not given is left out."""
    given = {name: getattr(args, name) for name in PROMPT_OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def teacher_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what `load_teacher` takes of :func:`add_teacher_arguments`; what was not given is left out."""
    from rabtriever.rerankers.remote.options import RemoteOptions

    options = prompt_options(args)
    if any("+" in name for name in args.teacher):
        values = {field.name: getattr(args, field.name) for field in fields(RemoteOptions)}
        options["remote"] = RemoteOptions(**{name: value for name, value in values.items() if value is not None})
    return options


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the index to read and the retriever that made it."""
    parser.add_argument("uri", help="an index of `rabtriever index`")
    add_model_arguments(parser, "the retriever that made the index, if its folder has moved")


def open_index(args: argparse.Namespace) -> Index:
    """Returns the index with its retriever loaded; raises InputError without an index before a model is loaded."""
    from rabtriever.index import Index

    index = Index.open(args.uri)
    source = args.model or index.table.model_source()
    from rabtriever.retriever import Rabtriever

    return Index.open(args.uri, Rabtriever.from_pretrained(source, **load_options(args)))


def add_ray_argument(parser: argparse._ActionsContainer) -> None:
    """Adds ``--ray``, the cluster to work on."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="work on a Ray cluster: host:port, ray://host:port, auto, or without a value all cores of this machine",
    )


def add_worker_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds ``--ray`` and the workers' number and size; returns their group."""
    group = parser.add_argument_group("several machines")
    add_ray_argument(group)
    workers_help = "workers, each with a model (default: as many as the cluster has room for)"
    group.add_argument("--ray-workers", type=int, metavar="N", help=workers_help)
    group.add_argument("--ray-cpus", type=float, metavar="X", help="cores of each (default: 1)")
    group.add_argument("--ray-gpus", type=float, metavar="X", help="GPUs of each, also a fraction (default: 0)")
    return group


def require_ray(args: argparse.Namespace, names: Sequence[str] = WORKER_OPTIONS) -> None:
    """Raises InputError if one of some arguments was given, and no cluster."""
    for name in names if args.ray is None else ():
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')}: goes with --ray; give that too, or leave it out", param=name)


def worker_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what `Workers` takes of :func:`add_worker_arguments`; what was not given is left out."""
    given = {"n": args.ray_workers, "cpus": args.ray_cpus, "gpus": args.ray_gpus}
    return {name: value for name, value in given.items() if value is not None}


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the columns of a source that is a table."""
    columns = parser.add_argument_group("columns of a table")
    columns.add_argument("--id-column", metavar="NAME", help="of the ids (default: _id, id or name)")
    columns.add_argument("--text-column", metavar="NAME", help="of the texts (default: text, description or content)")
    columns.add_argument("--title-column", metavar="NAME", help="of the titles (default: title or name)")


def source_columns(args: argparse.Namespace) -> dict[str, str | None]:
    """Returns what `read_source` takes of :func:`add_source_arguments`."""
    return {name: getattr(args, name) for name in ("id_column", "text_column", "title_column")}


def add_data_arguments(parser: argparse.ArgumentParser, summary: str) -> None:
    """Adds the data sets to train on."""
    parser.add_argument("data", nargs="+", help=summary)
    parser.add_argument(
        "--max-queries-per-dataset", type=int, metavar="N", help="train queries to use of each folder (default: all)"
    )
    parser.add_argument(
        "--max-queries-per-document",
        type=int,
        metavar="N",
        help="use labelled train queries while one of their documents has fewer than N (default: all)",
    )


def read_data(args: argparse.Namespace) -> RetrievalData:
    """Returns the data of :func:`add_data_arguments`; ``--seed`` draws the queries."""
    from rabtriever.data import concatenate, load_data

    sources = [load_data(source) for source in args.data]
    return concatenate(sources, args.max_queries_per_dataset, args.seed, args.max_queries_per_document)


def print_result(args: argparse.Namespace, result: Any, text: str) -> None:  # noqa: ANN401
    """Prints a command's result: as JSON in ASCII with ``--json``, otherwise as text, if there is any."""
    if args.json or text:
        print(json.dumps(result) if args.json else text)


def _device(name: str) -> str:
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"{name!r} is no device; give cpu, cuda, cuda:1, mps or xpu")
    return name
