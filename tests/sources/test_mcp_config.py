import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabtriever.errors import InputError, NotFoundError
from rabtriever.sources.mcp_config import read_servers, tool_prefixes


def write(path, servers):
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


def test_servers_as_clients_have_them(tmp_path):
    path = write(
        tmp_path / "mcp.json",
        {
            "time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TZ": "${ZONE:-UTC}"}, "timeout": 60},
            "remote": {"type": "http", "url": "https://host/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}},
            "old": {"type": "sse", "url": "http://host/sse", "allow": ["get_*"], "deny": ["get_secret"]},
            "off": {"command": "x", "disabled": True},
        },
    )
    time, remote, old = read_servers(path, {"TOKEN": "abc"})
    assert (time.name, time.command, time.args, time.env) == ("time", "uvx", ("mcp-server-time",), {"TZ": "UTC"})
    assert remote.headers == {"Authorization": "Bearer abc"} and not remote.sse and old.sse
    assert [old.allows(tool) for tool in ("get_time", "get_secret", "set_time")] == [True, False, False]
    assert time.allows("anything")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not a readable JSON file"),
        ("[]", 'no "mcpServers" in it'),
        ('{"servers": {}}', 'no "mcpServers" in it'),
        ('{"mcpServers": {}}', "names no server"),
        ('{"mcpServers": []}', r"mcpServers is \[\]; give an object"),
        ('{"mcpServers": {" ": {"command": "x"}}}', "a server's name is blank"),
        ('{"mcpServers": {"a": "npx"}}', "server 'a': 'npx' is no JSON object"),
        ('{"mcpServers": {"a": {}}}', "server 'a': give it either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "url": "http://y"}}}', "either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "args": "-y"}}}', "args is '-y'; give a list of strings"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"N": 1}}}}', "give an object of strings"),
        ('{"mcpServers": {"a": {"url": "host/mcp"}}}', "it should begin with http"),
        ('{"mcpServers": {"a": {"url": "http://h", "type": "ws"}}}', "type 'ws'; choose one of stdio, http"),
        ('{"mcpServers": {"a": {"command": "${NOWHERE}"}}}', r"\$\{NOWHERE\} is not set; set it"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_the_fault(tmp_path, text, fault):
    path = tmp_path / "mcp.json"
    path.write_text(text)
    with pytest.raises(InputError, match=fault) as error:
        read_servers(path, {})
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="no such file; give a JSON file with mcpServers"):
        read_servers(tmp_path / "nowhere.json")


def test_names_stay_as_they_are_unless_they_could_collide():
    assert tool_prefixes(["github", "awslabs.core"]) == {"github": "github", "awslabs.core": "awslabs.core"}
    assert tool_prefixes(["a", "a.b"]) == {"a": "a", "a.b": "a%2Eb"}
    with pytest.raises(InputError, match="rename it"):
        tool_prefixes(["a", "a.b", "a%2Eb"])


@given(st.lists(st.text("ab.", min_size=1, max_size=5), min_size=1, max_size=6, unique=True), st.data())
def test_no_two_tools_have_one_name(servers, data):
    tools = data.draw(st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=6, unique=True))
    prefixes = tool_prefixes(servers)
    assert len({f"{prefixes[server]}.{tool}" for server in servers for tool in tools}) == len(servers) * len(tools)
