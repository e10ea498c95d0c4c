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
        ("{", "malformed JSON"),
        ("[]", 'no "mcpServers" in it'),
        ('{"servers": {}}', 'no "mcpServers" in it'),
        ('{"mcpServers": {}}', "names no server"),
        ('{"mcpServers": []}', "mcpServers is a list; give an object"),
        ('{"mcpServers": {" ": {"command": "x"}}}', "a server's name is blank"),
        ('{"mcpServers": {"a": "npx"}}', "server 'a': a string is no JSON object"),
        ('{"mcpServers": {"a": {}}}', "server 'a': give it either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "url": "http://y"}}}', "either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "args": "-y"}}}', "args is a string; give a list of strings"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"N": 1}}}}', "env.N is a number; give a string"),
        ('{"mcpServers": {"a": {"url": "host/mcp"}}}', "its url should begin with http"),
        ('{"mcpServers": {"a": {"url": "http://h", "type": "ws"}}}', "its type is none of stdio, http, .*; choose one"),
        ('{"mcpServers": {"a": {"url": "http://h", "type": "stdio"}}}', "type stdio goes with a command"),
        ('{"mcpServers": {"a": {"command": "x", "type": "http"}}}', "type http goes with a url"),
        ('{"mcpServers": {"a": {"command": "${NOWHERE}"}}}', r"\$\{NOWHERE\} is not set; set it"),
        ('{"mcpServers": {"a": {"command": "${env:NOWHERE}"}}}', r"\$\{NOWHERE\} is not set; set it"),
        ('{"mcpServers": {"a": {"command": "${input:key}"}}}', r"only an editor knows \$\{input:key\}"),
        ('{"mcpServers": {"a": {"command": "x", "Deny": ["*"]}}}', "no key 'Deny'; did you mean deny"),
        ('{"mcpServers": {"a": {"command": "x", "denied": ["*"]}}}', "no key 'denied'; did you mean deny"),
        ('{"mcpServers": {"a": {"command": "x", "alow": ["*"]}}}', "no key 'alow'; did you mean allow"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_the_fault(tmp_path, text, fault):
    path = tmp_path / "mcp.json"
    path.write_text(text)
    with pytest.raises(InputError, match=fault) as error:
        read_servers(path, {})
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "server",
    [
        {"url": "${KEY}://host"},
        {"url": "http://host", "headers": {"Authorization": ["${KEY}"]}},
        {"url": "http://host", "headers": ["abc", "${KEY}"]},
        {"command": "x", "args": "--token=abc"},
        "x --token=abc",
    ],
)
def test_a_message_holds_no_value_which_may_be_a_key(tmp_path, server):
    with pytest.raises(InputError) as error:
        read_servers(write(tmp_path / "mcp.json", {"a": server}), {"KEY": "abc"})
    assert "abc" not in str(error.value).replace(str(tmp_path), "")


def test_variables_as_editors_write_them(tmp_path):
    row = {"command": "x", "args": ["${env:KEY}", "${env:NO:-b}", "${KEY}", "${x:0:3}"], "alwaysAllow": ["y"]}
    [server] = read_servers(write(tmp_path / "mcp.json", {"a": row}), {"KEY": "a"})
    assert server.args == ("a", "b", "a", "${x:0:3}") and server.allow == ("*",)


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
