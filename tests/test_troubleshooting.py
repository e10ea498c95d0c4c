"""docs/troubleshooting.md has an entry for every message that the package shows, and for no other.

A message is the argument of a call that makes an error. Its constant text is what the call spells out: literal strings,
and ``...`` for each value between them. A name stands for the one string that its function assigns to it, or else its
module or the one that it is imported from. A message without a word of its own hands another error's on and needs no
entry. An entry is the code in the first cell of a table's row. Both are compared as they are: whoever changes a message
changes its entry.
"""

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
PACKAGE = Path(__file__).parents[1] / "src" / "rabtriever"
ERRORS = re.findall(r"^class (\w+Error)\(", (PACKAGE / "errors.py").read_text(encoding="utf-8"), re.MULTILINE)
# Which argument is the message. A text's error names the text first; `invalid` is that of a field in a request.
MESSAGE_AT = {**dict.fromkeys(ERRORS, 0), "TextError": 3, "APIError": 1, "invalid": 0}
ROW = re.compile(r"^\| (`+) ?(.+?) ?\1 \| (.*) \| (.*) \|$", re.MULTILINE)


class Messages(ast.NodeVisitor):
    """Collects the constant texts of a module's messages and the lines that raise them."""

    def __init__(self) -> None:
        self.found: dict[str, list[int]] = defaultdict(list)
        self.scopes: list[dict[str, list[ast.expr]]] = []

    def visit_scope(self, node: ast.AST) -> None:
        """Enters a module or function, whose assigned and imported names its messages may use."""
        assigned = defaultdict(list)
        for statement in ast.walk(node):
            if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("rabtriever."):
                for name in (alias.name for alias in statement.names if alias.name.isupper()):
                    assigned[name] = constants(str(statement.module)).get(name, [])
            if not isinstance(statement, ast.Assign):
                continue
            for target in statement.targets:
                pairs = [(target, statement.value)]
                if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                    pairs = list(zip(target.elts, statement.value.elts, strict=True))
                for name, value in pairs:
                    if isinstance(name, ast.Name):
                        assigned[name.id].append(value)
        self.scopes.append(assigned)
        self.generic_visit(node)
        self.scopes.pop()

    visit_Module = visit_FunctionDef = visit_AsyncFunctionDef = visit_scope  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:  # noqa: N802
        position = MESSAGE_AT.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if position is not None and len(node.args) > position:
            text = self.constant_text(node.args[position])
            text = f"... {text}" if node.func.id == "TextError" else text
            text = re.sub(r"(\.\.\.)+", "...", " ".join(text.split()))
            if re.search(r"\w", text):
                self.found[text].append(node.lineno)
        self.generic_visit(node)

    def constant_text(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.JoinedStr(values=parts):
                return "".join(map(self.constant_text, parts))
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return self.constant_text(value)
            case ast.BinOp(left=left, right=right, op=ast.Add()):
                return self.constant_text(left) + self.constant_text(right)
            case ast.Name(id=name):
                values = next((scope[name] for scope in reversed(self.scopes) if name in scope), [])
                if len(values) == 1 and isinstance(values[0], ast.Constant | ast.JoinedStr | ast.BinOp):
                    return self.constant_text(values[0])
        return "..."


@cache
def constants(module: str) -> dict[str, list[ast.expr]]:
    """Returns the values that a module assigns to names at its top."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    assigns = [statement for statement in statements if isinstance(statement, ast.Assign)]
    return {one.targets[0].id: [one.value] for one in assigns if isinstance(one.targets[0], ast.Name)}


def messages_of(source: str) -> dict[str, list[int]]:
    messages = Messages()
    messages.visit(ast.parse(source))
    return messages.found


@pytest.fixture(scope="module")
def raised():
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for text, lines in messages_of(path.read_text(encoding="utf-8")).items():
            found[text] += [f"{path.relative_to(PACKAGE)}:{line}" for line in lines]
    return found


@pytest.fixture(scope="module")
def entries():
    return [match.groups()[1:] for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


def test_every_message_has_an_entry(raised, entries):
    explained = {text for text, _, _ in entries}
    missing = [f"{text}    ({', '.join(where)})" for text, where in raised.items() if text not in explained]
    assert not missing, "add these to docs/troubleshooting.md:\n" + "\n".join(missing)


def test_every_entry_has_a_message(raised, entries):
    stale = [text for text, _, _ in entries if text not in raised]
    assert not stale, "nothing raises these of docs/troubleshooting.md:\n" + "\n".join(stale)


def test_every_entry_stands_once_and_says_cause_and_remedy(entries):
    assert [text for text, count in Counter(text for text, _, _ in entries).items() if count > 1] == []
    assert [text for text, cause, remedy in entries if not (cause.strip() and remedy.strip())] == []


def test_how_a_message_is_read():
    source = """
PLACE = "the page"
def f(x):
    fault, other = f"{x!r} is wrong", 1
    raise InputError(f"{PLACE}: {fault}; give {x:.2f} or {x + 1}")
def g(kind, x):
    raise TextError(kind, 0, x, "is blank")
def h(error):
    raise APIError(422, f"line {error}", "body")
def i(error):
    raise BusyError(str(error))
"""
    assert list(messages_of(source)) == ["the page: ... is wrong; give ... or ...", "... is blank", "line ..."]
