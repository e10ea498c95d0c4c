import ast
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import rabtriever


@pytest.mark.parametrize("name", rabtriever.__all__)
def test_every_public_name_is_there(name):
    assert getattr(rabtriever, name).__name__ == name
    assert name in dir(rabtriever)


def test_the_tables_name_the_same():
    assert sorted(rabtriever._MODULE_OF) == sorted(rabtriever.__all__) == rabtriever.__all__
    assert set(rabtriever._RENAMED) & set(rabtriever.__all__) == set()


def test_type_checkers_see_what_is_there():
    tree = ast.parse(Path(rabtriever.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    found = {
        alias.name: node.module.removeprefix("rabtriever.")
        for node in ast.walk(blocks[0])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found.keys() == rabtriever._MODULE_OF.keys()
    for name, module in found.items():
        assert getattr(importlib.import_module(f"rabtriever.{module}"), name) is getattr(rabtriever, name)


def test_no_other_name_is():
    with pytest.raises(AttributeError, match="has no attribute 'magic'"):
        rabtriever.magic  # noqa: B018
    with pytest.raises(ImportError):
        from rabtriever import magic  # noqa: F401


@pytest.mark.parametrize("old", sorted(rabtriever._RENAMED))
def test_an_old_name_works_and_warns(old):
    new = rabtriever._RENAMED[old]
    with pytest.warns(DeprecationWarning, match=f"rabtriever.{old} is now rabtriever.{new}"):
        assert getattr(rabtriever, old) is getattr(rabtriever, new)


def test_current_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in rabtriever.__all__:
            getattr(rabtriever, name)


def test_an_old_member_works_and_warns(retriever, tiny_data):
    index = rabtriever.Index.build(None, retriever, tiny_data.documents.values())
    with pytest.warns(DeprecationWarning, match="Rabtriever.teacher is now Rabtriever.reranker"):
        assert retriever.teacher is retriever.reranker
    with pytest.warns(DeprecationWarning, match="Rabtriever.source is now Rabtriever.name_or_path"):
        assert retriever.source is retriever.name_or_path
    retriever.encode_query("rain")
    with pytest.warns(DeprecationWarning, match="Rabtriever.known is now Rabtriever.cached_query"):
        assert len(retriever.known["query"]) == 1
    with pytest.warns(DeprecationWarning, match="Index.wait is now Index.write_timeout"):
        index.wait = 3.0
    assert index.write_timeout == 3.0
    with pytest.warns(DeprecationWarning, match="Index.find is now Index.retrieve"):
        found = index.find(["rain"], retriever.encode_query(["rain"]), 2, "id <> 'lamp'")
    assert found == [index.search("rain", k=2, where="id <> 'lamp'")]


@pytest.mark.parametrize("statement", ["import rabtriever", "from rabtriever import InputError, DistillConfig"])
def test_importing_costs_nothing_heavy(statement):
    heavy = ("torch", "transformers", "numpy", "lancedb", "numba", "fastapi")
    code = f"import sys; {statement}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
