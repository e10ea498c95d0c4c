"""Tool lists and OpenAPI documents."""

import json

import pytest
import yaml

from rabtriever.errors import InputError
from rabtriever.sources import read_source
from rabtriever.sources.tools import PARAMETER_CHARACTERS, tool_document

TOOLS = [
    {"name": "wipe", "description": "Wipes up.", "inputSchema": {"properties": {"place": {"description": "where"}}}},
    {"name": "light", "title": "Lamp", "description": None, "inputSchema": {}},
]


def read(tmp_path, value, name="tools.json"):
    path = tmp_path / name
    path.write_text(json.dumps(value) if name.endswith("json") else yaml.safe_dump(value, sort_keys=False))
    return list(read_source(path))


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"tools": t}, lambda t: {"id": 1, "result": {"tools": t}}])
def test_a_servers_tools(tmp_path, wrap):
    assert read(tmp_path, wrap(TOOLS)) == [tool_document("", tool) for tool in TOOLS]


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"tools": t}])
def test_several_servers_tools(tmp_path, wrap):
    found = read(tmp_path, {"home": wrap(TOOLS), "shed": wrap(TOOLS[:1])})
    assert found == [*(tool_document("home", tool) for tool in TOOLS), tool_document("shed", TOOLS[0])]
    assert [one.id for one in found] == ["home.wipe", "home.light", "shed.wipe"]


def test_other_shapes_of_the_same_tools(tmp_path):
    anthropic = [{**tool, "input_schema": tool["inputSchema"], "inputSchema": None} for tool in TOOLS]
    for tool in anthropic:
        del tool["inputSchema"]
    openai = [{"name": t["name"], "description": t["description"], "parameters": t["inputSchema"]} for t in TOOLS[:1]]
    assert read(tmp_path, anthropic) == read(tmp_path, TOOLS)
    assert read(tmp_path, [{"type": "function", "function": one} for one in openai]) == read(tmp_path, TOOLS[:1])


@pytest.mark.parametrize(
    ("tool", "fault"),
    [({"inputSchema": {}}, "tool 1: .* has no name"), ({"name": "a", "description": 1, "inputSchema": {}}, "is 1;")],
)
def test_a_tool_that_is_none(tmp_path, tool, fault):
    with pytest.raises(InputError, match=fault):
        read(tmp_path, {"tools": [tool]})


PETS = {
    "openapi": "3.1.0",
    "info": {"title": "Pet Store"},
    "paths": {
        "/pets/{id}": {
            "parameters": [{"$ref": "#/components/parameters/Id"}],
            "get": {"operationId": "getPet", "summary": "One pet.", "description": "By its id.", "tags": ["pets"]},
            "post": {
                "description": "Changes it.",
                "requestBody": {"$ref": "#/components/requestBodies/Pet"},
                "parameters": [{"name": "dry~run/", "in": "query"}],
            },
        },
        "/also": {"$ref": "#/components/pathItems/a~1b~0c"},
    },
    "components": {
        "parameters": {"Id": {"name": "id", "in": "path", "description": "Number of\n the pet"}},
        "requestBodies": {"Pet": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}}},
        "schemas": {
            "Named": {"properties": {"name": {"description": "What it is called"}}},
            "Owner": {"type": "object", "description": "Who has it"},
            "Pet": {
                "allOf": [
                    {"$ref": "#/components/schemas/Named"},
                    {"properties": {"owner": {"$ref": "#/components/schemas/Owner"}}},
                    {"$ref": "#/components/schemas/Pet"},
                ]
            },
        },
        "pathItems": {"a/b~c": {"delete": {"summary": "Same"}}},
    },
}


@pytest.mark.parametrize("name", ["pets.json", "pets.yaml"])
def test_an_operation_is_said_before_its_parameters(tmp_path, name):
    get, post, delete = read(tmp_path, PETS, name)
    assert get.id == "pet-store.getPet" and get.title == "getPet"
    assert get.text == "One pet.\nBy its id.\nGET /pets/{id}\nParameters: id (Number of the pet)"
    assert get.metadata == {
        "api": "pet-store",
        "name": "getPet",
        "method": "GET",
        "path": "/pets/{id}",
        "tags": ["pets"],
    }
    assert post.id == "pet-store.post_pets_id" and post.title == "POST /pets/{id}"
    assert post.text == (
        "Changes it.\nParameters: id (Number of the pet), dry~run/, name (What it is called), owner (Who has it)"
    )
    assert delete.id == "pet-store.delete_also" and delete.text == "Same"


def test_a_long_schema_is_cut_and_the_description_is_not(tmp_path):
    parameters = [{"name": f"p{i}", "description": "x" * 100} for i in range(100)]
    get = {"summary": "s" * 5000, "parameters": parameters}
    (found,) = read(tmp_path, {"openapi": "3.0.0", "paths": {"/": {"get": get}}})
    assert found.id == "tools.get" and found.text.startswith("s" * 5000 + "\nParameters: p0")
    assert len(found.text) == 5001 + PARAMETER_CHARACTERS


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"openapi": "2.0"}, r"OpenAPI 2\.0, 3\.x can be read"),
        ({"paths": None}, "no paths in it"),
        ({"paths": {"/": {"$ref": "other.yaml#/x"}}}, r"\$ref 'other.yaml#/x' leads nowhere in this file"),
        ({"paths": {"/": {"$ref": "#/nowhere"}}}, r"\$ref '#/nowhere' leads nowhere"),
        ({"paths": {"/": {"$ref": "#/paths/~1"}}}, "leads back to itself"),
    ],
)
def test_an_openapi_document_that_cannot_be_read(tmp_path, change, fault):
    with pytest.raises(InputError, match=fault):
        read(tmp_path, {**PETS, **change})
