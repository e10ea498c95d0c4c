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


def operations(tmp_path, paths, **more):
    return read(tmp_path, {"openapi": "3.0.0", "info": {"title": "P"}, "paths": paths, **more})


def with_body(schema, schemas):
    body = {"content": {"application/json": {"schema": schema}}}
    return {"/a": {"post": {"operationId": "a", "requestBody": body}}}, {"components": {"schemas": schemas}}


def reference(name):
    return {"$ref": f"#/components/schemas/{name}"}


def test_a_parent_that_is_one_of_its_children_is_read_once(tmp_path):
    children = [f"C{i}" for i in range(40)]
    schemas = {name: {"allOf": [reference("Pet"), {"properties": {name: {}}}]} for name in children}
    schemas["Pet"] = {"oneOf": [reference(name) for name in children], "properties": {"kind": {"description": "of it"}}}
    paths, more = with_body({**reference("Pet"), "description": "beside"}, schemas)
    (found,) = operations(tmp_path, paths, **more)
    assert found.text == "POST /a\nParameters: " + ", ".join([*children, "kind (of it)"])


def test_parents_that_schemas_share_in_many_ways(tmp_path):
    # 2**60 ways from the first to the last, in the file's own anchors: no references.
    lines = ["  s0: &s0 {properties: {last: {}}}"]
    lines += [f"  s{i}: &s{i} {{allOf: [*s{i - 1}, *s{i - 1}]}}" for i in range(1, 60)]
    body = "{content: {a: {schema: *s59}}}"
    path = tmp_path / "p.yaml"
    path.write_text(
        "\n".join(["openapi: 3.0.0", "x:", *lines, f"paths: {{/a: {{get: {{operationId: a, requestBody: {body}}}}}}}"])
    )
    (found,) = read_source(path)
    assert found.text == "GET /a\nParameters: last"


@pytest.mark.parametrize(
    "wrong",
    [{"tags": 5}, {"parameters": 5}, {"requestBody": {"content": {"a": {"schema": {"allOf": 5, "properties": 5}}}}}],
)
def test_a_part_of_the_wrong_type_is_left_out(tmp_path, wrong):
    (found,) = operations(tmp_path, {"/a": {"get": {"summary": "Reads.", **wrong}, "parameters": 7}})
    assert found.text == "Reads." and found.metadata["tags"] == []


def test_a_reference_may_be_percent_encoded(tmp_path):
    paths, more = with_body({"$ref": "#/components/schemas/Pet%20or%7E1dog"}, {"Pet or/dog": {"properties": {"n": {}}}})
    assert operations(tmp_path, paths, **more)[0].text == "POST /a\nParameters: n"


def test_operations_without_an_id_have_different_ones(tmp_path):
    get = {"get": {"summary": "x"}}
    paths = {"/users/{me}": get, "/users/me": get, "/猫": get, "/犬": get, "/": get}
    named = {"/x": {"get": {"operationId": "get_users_me_2", "summary": "x"}}}
    assert [one.id for one in operations(tmp_path, {**paths, **named})] == [
        "p.get_users_me",
        "p.get_users_me_3",
        "p.get_猫",
        "p.get_犬",
        "p.get",
        "p.get_users_me_2",
    ]


@pytest.mark.parametrize("value", [{"id": 1, "result": {"tools": []}}, {"tools": []}, {"home": []}])
def test_no_tools(tmp_path, value):
    with pytest.raises(InputError, match="no documents"):
        read(tmp_path, value)


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.mark.parametrize("name", ["tools.json", "tools.jsonl"])
def test_every_entry_says_what_a_list_is(tmp_path, name):
    def documents(values):
        path = write_lines(tmp_path / name, values)
        if name == "tools.json":
            path.write_text(json.dumps(values))
        return list(read_source(path))

    tools = [{"name": "ping", "description": "Pings."}, *TOOLS]
    assert documents(tools) == [tool_document("", tool) for tool in tools]
    chat = [{"type": "function", "function": {"name": "ping"}}]
    assert documents(chat) == [tool_document("", {"name": "ping"})]
    rows = [{"_id": "1", "text": "x", "parameters": "n=3"}, {"_id": "2", "text": "y", "function": "f"}]
    assert [one.metadata for one in documents(rows)] == [{"parameters": "n=3"}, {"function": "f"}]
    rows = [{"_id": "1", "text": "x", "parameters": {"rate": 3}, "function": {"of": "x"}}]
    assert documents(rows)[0].metadata == {"parameters": {"rate": 3}, "function": {"of": "x"}}


def test_a_named_column_makes_a_list_of_tools_a_table(tmp_path):
    path = write_lines(tmp_path / "tools.jsonl", [{**TOOLS[0], "what": "other"}])
    (found,) = read_source(path, text_column="what")
    assert found.text == "other" and "inputSchema" in found.metadata


@pytest.mark.parametrize(
    "wrap", [lambda page: page, lambda page: {"result": page}, lambda page: {"home": page, "shed": TOOLS}]
)
def test_one_page_of_several_is_told(tmp_path, wrap):
    with pytest.warns(UserWarning, match=r"tools\.json.*: nextCursor says that the server has more tools"):
        assert read(tmp_path, wrap({"tools": TOOLS, "nextCursor": "2"}))
