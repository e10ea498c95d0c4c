"""Servers that a config file names: real ones, over standard input and output and over HTTP, and dead ones."""

import builtins
import json
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from rabtriever.errors import InputError, RemoteError
from rabtriever.sources import mcp_servers, read_source
from rabtriever.sources.mcp_config import parse_servers

SERVER = str(Path(__file__).with_name("mcp_server.py"))
HOME = {"command": sys.executable, "args": [SERVER]}


def read(tmp_path, servers):
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return list(read_source(path))


@pytest.fixture
def url(monkeypatch):
    """A server over streamable HTTP that wants a key."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import mcp_server

    app = mcp_server.server.streamable_http_app()

    async def guarded(scope, receive, send):
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != b"Bearer key":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(guarded, log_level="error"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    server.should_exit = True
    thread.join(5)


def test_the_tools_of_all_servers(tmp_path, url, monkeypatch):
    monkeypatch.setenv("HOME_KEY", "key")
    web = {"type": "http", "url": url, "headers": {"Authorization": "Bearer ${HOME_KEY}"}}
    off = {"command": "no-such-program", "disabled": True}
    found = read(tmp_path, {"web": web, "off": off, "shed": HOME})
    assert [one.id for one in found] == ["web.wipe", "web.light", "shed.wipe", "shed.light"]
    assert found[3].content == "light: Switches a lamp.\nParameters: room (where)"


def test_a_dead_server_is_named_whatever_the_others_do(tmp_path):
    dead = {"command": sys.executable, "args": ["-c", "raise SystemExit('no key')"]}
    with pytest.raises(RemoteError, match=r"server 'dead': listed no tools .*its last line: 'no key'") as error:
        read(tmp_path, {"home": HOME, "dead": dead})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dead", [{"command": "no-such-program"}, {"url": "http://127.0.0.1:9/mcp"}])
def test_a_server_that_is_not_there(tmp_path, dead):
    with pytest.raises(RemoteError, match="server 'dead': listed no tools"):
        read(tmp_path, {"dead": dead})


def test_a_server_that_says_nothing_runs_into_the_timeout():
    command = {"command": sys.executable, "args": ["-c", "import time; time.sleep(60)"]}
    silent = parse_servers({"silent": command}, "mcp.json")
    with pytest.raises(RemoteError, match="server 'silent': listed no tools .no answer in 0.5 s"):
        mcp_servers.server_tools(silent, "mcp.json", timeout=0.5)


def test_what_a_file_denies_is_no_document(tmp_path):
    found = read(tmp_path, {"home": {**HOME, "deny": ["li*"]}, "home.shed": {**HOME, "allow": ["light"]}})
    assert [one.id for one in found] == ["home.wipe", "home%2Eshed.light"]


def test_a_config_that_cannot_be_read_starts_nothing(tmp_path):
    with pytest.raises(InputError, match="server 'a': give it either a command or a url"):
        read(tmp_path, {"home": {"command": "no-such-program"}, "a": {}})


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "mcp":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'rabtriever\[mcp\]'"):
        read(tmp_path, {"home": HOME})
