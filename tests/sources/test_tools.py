import pytest

from rabtriever.errors import InputError
from rabtriever.sources.tools import PARAMETER_CHARACTERS, as_in_mcp, tool_document


def test_description_comes_before_parameters():
    schema = {"type": "object", "properties": {"repo": {"description": "owner/name"}, "title": {"type": "string"}}}
    document = tool_document(
        "github", {"name": "create_issue", "description": "Opens an issue. ", "inputSchema": schema}
    )
    assert document.id == "github.create_issue"
    assert document.content == "create_issue: Opens an issue.\nParameters: repo (owner/name), title"
    assert document.metadata == {"server": "github", "name": "create_issue"}


def test_long_schema_is_cut_and_the_description_is_not():
    schema = {"properties": {f"field_{i}": {"description": "x" * 100} for i in range(100)}}
    text = tool_document("s", {"name": "t", "description": "d" * 3000, "inputSchema": schema}).text
    assert text.startswith("d" * 3000 + "\nParameters: field_0") and len(text) == 3001 + PARAMETER_CHARACTERS


def test_tool_without_description_or_with_a_schema_of_no_use():
    assert tool_document("", {"name": "ping", "inputSchema": {"properties": []}}).content == "ping"


def test_the_first_schema_that_is_one_counts():
    schema = {"properties": {"place": {}}}
    tool = {"name": "wipe", "inputSchema": None, "input_schema": {}, "parameters": schema}
    assert as_in_mcp(tool, "tools")["inputSchema"] == schema
    assert as_in_mcp({"function": tool}, "tools") == as_in_mcp(tool, "tools")


@pytest.mark.parametrize(
    ("tool", "fault"),
    [
        ({"name": "a", "description": 5}, "here: description of 'a' is 5; it should be a string"),
        ({"name": "a", "title": []}, "here: title of 'a' is"),
        ({"name": 5}, "here: .* has no name"),
        ("a", "here: 'a' has no name"),
    ],
)
def test_what_is_no_tool(tool, fault):
    with pytest.raises(InputError, match=fault):
        as_in_mcp(tool, "here")
