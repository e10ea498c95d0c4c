"""What a source is, and its documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rabtriever.data import Document, RetrievalData, read_corpus
from rabtriever.data.metadata import why_not_storable
from rabtriever.errors import InputError, NotFoundError, has_half_character
from rabtriever.persistence.folder import local_path
from rabtriever.sources.hub import HUB, hub_documents
from rabtriever.sources.json_files import json_documents
from rabtriever.sources.markdown import markdown_documents, markdown_files
from rabtriever.sources.places import Placed
from rabtriever.sources.skills import skill_documents, skill_files
from rabtriever.sources.tables import TABLES, Columns, table_documents

KINDS = (
    "a tool list, an mcpServers file, an OpenAPI document (JSON, YAML), a table (JSON, JSONL, CSV, Parquet), a BEIR "
    "folder or zip, a folder of SKILL.md or Markdown files, or hf:owner/name"
)


def read_source(
    source: str | Path, id_column: str | None = None, text_column: str | None = None, title_column: str | None = None
) -> Iterator[Document]:
    """Reads the documents of what people have, one by one; what it is, is found out.

    ========================================  ======================================================================
    source                                    documents
    ========================================  ======================================================================
    JSON of tools: MCP's ``tools/list``       a tool each, ``name``; of several servers, ``server.name``
    JSON with ``mcpServers``                  the servers are started and asked for their tools, ``server.name``
    OpenAPI 3, JSON or YAML                   an operation each, ``api.operationId`` or ``api.method_path``
    folder with ``SKILL.md`` files            a skill each, by its folder's path; front matter and body
    folder of Markdown                        a file each, ``path``; of a longer one its sections, ``path#anchor``
    JSON, JSONL, CSV, TSV, Parquet            a row each; columns that are not named become metadata
    BEIR folder or zip                        its ``corpus.jsonl``
    ``hf:owner/name[:config[:split]]``        a row each of a data set on the Hugging Face hub
    ========================================  ======================================================================

    Args:
        source: Path of a file or folder, or a data set's name after ``hf:``.
        id_column: Of a table; by default ``_id``, ``id`` or ``name``, the first that a row has.
        text_column: By default ``text``, ``description`` or ``content``.
        title_column: By default ``title`` or ``name``.

    Raises:
        NotFoundError: there is nothing.
        InputError: it is of no kind above or malformed, has no document, or two of one id; the message names the place.
        RemoteError: an MCP server that does not list its tools.
    """
    columns = Columns(id_column, text_column, title_column)
    return _checked(str(source), _placed(source, columns))


def load_source(
    source: str | Path, id_column: str | None = None, text_column: str | None = None, title_column: str | None = None
) -> RetrievalData:
    """Loads a source as a data set without queries; arguments and errors as of :func:`read_source`."""
    documents = {one.id: one for one in read_source(source, id_column, text_column, title_column)}
    return RetrievalData(Path(str(source)).absolute().stem, documents, {}, {})


def _placed(source: str | Path, columns: Columns) -> Iterator[Placed]:
    if str(source).startswith(HUB):
        return hub_documents(str(source), columns)
    path = local_path(source)
    if path.is_dir():
        return _folder_documents(path)
    if not path.is_file():
        raise NotFoundError(f"{source}: no such file or folder; give {KINDS}")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return table_documents(path, columns)
    if suffix in (".json", ".yaml", ".yml"):
        return json_documents(path, columns)
    if suffix == ".zip":
        return ((str(path), document) for document in read_corpus(path))
    raise InputError(f"{path}: of no kind that can be read; give {KINDS}")


def _folder_documents(folder: Path) -> Iterator[Placed]:
    if (folder / "corpus.jsonl").is_file():
        return ((str(folder), document) for document in read_corpus(folder))
    if skills := skill_files(folder):
        return skill_documents(folder, skills)
    if files := markdown_files(folder):
        return markdown_documents(folder, files)
    raise InputError(f"{folder}: neither corpus.jsonl nor SKILL.md or Markdown files in it; give {KINDS}")


def _checked(source: str, documents: Iterator[Placed]) -> Iterator[Document]:
    """Yields the documents; raises InputError for the first that no index would take."""
    places: dict[str, str] = {}
    for place, document in documents:
        if document.id in places:
            where = f"{place} and {places[document.id]}" if places[document.id] != place else f"twice in {place}"
            raise InputError(f"document id {document.id!r}: {where}; ids should be unique, rename one")
        places[document.id] = place
        check_document(place, document)
        yield document
    if not places:
        raise InputError(f"{source}: no documents in it; a corpus needs at least one")


def check_document(place: str, document: Document) -> None:
    """Raises InputError for a document that no index would take."""
    if not document.content.strip():
        raise InputError(f"{place}: document {document.id!r} has neither title nor text; give it one of them")
    if any(map(has_half_character, (document.id, document.title, document.text))):
        fault = "holds half of a surrogate pair: write the character whole"
        raise InputError(f"{place}: document {document.id!r} {fault}")
    if why := why_not_storable(document.metadata):
        raise InputError(f"{place}: metadata of document {document.id!r}: {why}")
