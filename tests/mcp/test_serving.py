"""The command itself, over both transports, and a server behind it over HTTP."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from threading import Timer

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server

from rabtriever.errors import InputError
from rabtriever.mcp import servers
from rabtriever.mcp.serving import _WithKeys, serve
from rabtriever.serving.auth import APIKeys

KEY = "0123456789abcdef"
DEADLINE = 120  # seconds
TOOLS = {"lamp": "turn the light on", "music": "play a song", "cook": "find a recipe"}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def process(command, **options):
    with subprocess.Popen(command, **options) as started:
        try:
            yield started
        finally:
            started.kill()


async def until_meaning(client):
    """Returns the first search that the model answered."""
    return await until(client, "play a song", lambda found: found["tools"] and found["tools"][0]["match"] == "meaning")


async def until(client, request, condition):
    """Returns the first answer of which a condition holds; fails if there is none within two minutes."""
    with anyio.fail_after(DEADLINE):
        while True:
            found = (await client.call_tool("search_tools", {"request": request, "k": 2})).structured_content
            if condition(found):
                return found
            await anyio.sleep(0.1)


@contextmanager
def over_http(stubs, *options, host="127.0.0.1"):
    """Runs the command over HTTP; yields the URL."""
    command = [sys.executable, "-m", "rabtriever.cli", "mcp", "--config", str(stubs.path), "--http", f"{host}:0"]
    command += ["--state", str(stubs.folder / "state"), "--json", *options]
    with process(command, stdout=subprocess.PIPE, text=True) as started:
        timer = Timer(DEADLINE, started.kill)  # then the line is blank
        timer.start()
        try:
            yield json.loads(started.stdout.readline())["url"]
        finally:
            timer.cancel()


def test_the_command_over_stdio(stubs, sentence_folders):
    stubs.add("home", TOOLS)
    options = ["--model", str(sentence_folders["bert"]), "--state", str(stubs.folder / "state"), "--backend", "torch"]
    command = ["-m", "rabtriever.cli", "mcp", "--config", str(stubs.path), *options]
    server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))

    async def main():
        async with Client(server) as client:
            words = await until(client, "a song", lambda found: found["tools"])
            assert words["tools"][0]["name"] == "home.music"
            found = await until_meaning(client)
            assert found["total"] == 3 and found["more"] and found["fits"] is None
            assert all(0 < tool["probability"] < 1 for tool in found["tools"])
            called = await client.call_tool("call_tool", {"name": "home.music", "arguments": {"x": 1}})
            assert called.structured_content["tool"] == "music"

    anyio.run(main)


def test_the_command_over_http_with_a_key(stubs):
    stubs.add("home", TOOLS)
    keys = stubs.folder / "keys"
    keys.write_text(f"write {KEY}\nread {KEY[::-1]}\n")

    async def main(url):
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as http:
            for mode in ("auto", "legacy"):
                async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
                    found = await until(client, "lamp", lambda found: found["tools"])
                    assert found["tools"][0]["name"] == "home.lamp"
                    called = await client.call_tool("call_tool", {"name": "home.lamp"})
                    assert called.structured_content["tool"] == "lamp"
            refused = await http.post(url, headers={"Authorization": f"Bearer {KEY[::-1]}"})
            assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
            foreign = await http.post(url, json={}, headers={"Origin": "http://evil.example"})
            assert foreign.status_code == 403
            rebound = await http.post(url, json={}, headers={"Host": "evil.example"})
            assert rebound.status_code == 421

    with over_http(stubs, "--keys", str(keys)) as url:
        anyio.run(main, url)


ASK = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
connection.request("POST", "/mcp", "{}", {"Content-Type": "application/json", "Origin": sys.argv[2]})
print(connection.getresponse().status)
"""


def test_the_bound_address_is_served_whichever_of_the_machine_it_is(stubs):
    stubs.add("off", {}, command="a-program-that-does-not-exist")

    with over_http(stubs, host="127.0.0.2") as url:
        host = url.removeprefix("http://").removesuffix("/mcp")
        for origin, refused in ((f"http://{host}", False), ("http://evil.example", True)):
            command = [sys.executable, "-c", ASK, host, origin]  # these tests themselves may connect to 127.0.0.1 alone
            status = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE).stdout
            assert (int(status) in (403, 421)) == refused


def test_without_a_key_only_the_start_passes():
    passed, sent = [], []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    async def send(message):
        sent.append(message)

    async def main():
        guarded = _WithKeys(app, APIKeys(None, {"RABTRIEVER_WRITE_KEYS": KEY}))
        for kind in ("lifespan", "websocket"):
            await guarded({"type": kind, "headers": []}, None, send)
        await guarded({"type": "websocket", "headers": [(b"authorization", f"Bearer {KEY}".encode())]}, None, send)

    anyio.run(main)
    assert passed == ["lifespan", "websocket"] and sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_server_over_http_that_goes_and_comes_back(stubs, eventually, monkeypatch, mode):
    monkeypatch.setattr(servers, "Client", partial(Client, mode=mode))
    port = free_port()
    tools = stubs.add("far", TOOLS, url=f"http://127.0.0.1:{port}/mcp")
    command = [sys.executable, str(stubs.script), "far", str(tools), str(port)]

    async def main():
        with process(command) as first:
            async with stubs.gateway() as (gateway, client):
                await eventually(lambda: "far.lamp" in gateway.catalogue.tools)
                called = await client.call_tool("call_tool", {"name": "far.lamp"})
                assert called.structured_content["server"] == "far"
                first.kill()
                first.wait()
                lost = await client.call_tool("call_tool", {"name": "far.lamp"})
                assert lost.is_error and "server 'far'" in lost.content[0].text
                await eventually(lambda: not gateway.catalogue.tools["far.lamp"].available)
                with process(command):  # of whose sessions ours is none
                    await eventually(lambda: gateway.catalogue.tools["far.lamp"].available)
                    called = await client.call_tool("call_tool", {"name": "far.lamp"})
                    assert called.structured_content["tool"] == "lamp"

    anyio.run(main)


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("8765", "--http 8765: write HOST:PORT"),
        ("0.0.0.0:8765", "reaches beyond this machine; give API keys"),
        ("127.0.0.1:99999", "--http 127.0.0.1:99999: a port is a number from 0 to 65535"),
        (":18765", "--http :18765: write HOST:PORT"),
        ("no.such.host.invalid:1", "--http no.such.host.invalid:1: no such host"),
    ],
)
def test_an_address_that_cannot_be_served(address, fault):
    with pytest.raises(InputError, match=fault):
        serve(Server("test"), None, address, APIKeys(None, {}), print)


def test_a_gateway_does_not_start_itself(stubs):
    command = [sys.executable, "-m", "rabtriever.cli", "mcp", "--config", str(stubs.path)]
    stubs.add("self", {}, command=command[0], args=command[1:])
    environment = {**os.environ, "RABTRIEVER_MCP_GATEWAY": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == 2 and "a gateway would start itself" in done.stderr
