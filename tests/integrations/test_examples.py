"""The examples run as they are written; where they ask a provider's server, a stub on loopback plays the model."""

import json
import runpy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from stub_teacher import StubTeacher

EXAMPLES = Path(__file__).parents[2] / "examples"
BEST = "fetch_sponge"  # which every search should find first


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example and returns its lines."""

    def run(name, *arguments):
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr("sys.argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "library"), [("langchain_agent.py", "langchain"), ("llama_index_agent.py", "llama_index")]
)
def test_an_agent_sees_three_tools_and_calls_the_right_one(run, name, library):
    pytest.importorskip(library)
    lines = run(name)
    assert "fetch_sponge: " in lines[0] and "%" in lines[0]
    (seen, *_) = [line.removeprefix("the model sees: ").split(", ") for line in lines if line.startswith("the model")]
    assert len(seen) == 3 and seen[0] == BEST
    assert any("The sponge is in the kitchen." in line for line in lines)


@pytest.mark.slow
def test_an_agent_searches_its_tools(run):
    pytest.importorskip("langgraph_bigtool")
    lines = run("langgraph_bigtool.py")
    assert lines[0] == "the model sees: search_tools"
    assert lines[1].startswith(f"the model sees: search_tools, {BEST}, ")
    assert "tool: The sponge is in the kitchen." in lines


@pytest.mark.slow
def test_a_pipeline(run):
    pytest.importorskip("haystack")
    lines = run("haystack_pipeline.py")
    assert len(lines) == 2 and BEST in lines[0]


@pytest.mark.slow
def test_a_teacher_behind_a_proxy(run, monkeypatch, tmp_path):
    monkeypatch.setenv("RABTRIEVER_CACHE", str(tmp_path))
    stub = StubTeacher()  # tests/integrations/test_litellm.py asks the proxy itself
    lines = run("litellm_teacher.py", stub.address, "tiny")
    stub.server.shutdown()
    stub.server.server_close()
    assert len(lines) == 4 and lines[-1] == "1 requests, 0 pairs from the cache"


def say(body):
    """Plays Claude: searches, calls the first tool that it got, repeats what that said."""
    last = body["messages"][-1]["content"]
    block = {"type": "tool_use", "id": "1", "name": "search_tools", "input": {"request": last}}
    if not isinstance(last, str):
        (result,) = last
        if isinstance(result["content"], str):
            block = {"type": "text", "text": result["content"]}
        else:
            block |= {"name": result["content"][0]["tool_name"], "input": {"room": "kitchen"}}
    shape = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None}
    usage = {"input_tokens": 1, "output_tokens": 1}
    return {**shape, "content": [block], "stop_reason": "end_turn", "usage": usage}


def respond(body):
    """Plays an OpenAI model: the same."""
    last = body["input"][-1]
    item = {"id": "1", "call_id": "c1", "status": "completed", "arguments": {"request": last.get("content")}}
    item |= {"type": "tool_search_call", "execution": "client"}
    if last.get("type") == "tool_search_output":
        item = {"type": "function_call", "id": "2", "call_id": "c2", "name": last["tools"][0]["name"]}
        item |= {"arguments": json.dumps({"room": "kitchen"}), "status": "completed"}
    if last.get("type") == "function_call_output":
        text = {"type": "output_text", "text": last["output"], "annotations": []}
        item = {"type": "message", "id": "3", "role": "assistant", "status": "completed", "content": [text]}
    shape = {"id": "resp_1", "object": "response", "created_at": 0, "model": body["model"], "parallel_tool_calls": True}
    return {**shape, "output": [item], "status": "completed", "tool_choice": "auto", "tools": body["tools"]}


@pytest.fixture
def model():
    """A server that answers with ``say`` or ``respond``, and the requests it got."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = json.dumps((respond if self.path.endswith("/responses") else say)(requests[-1])).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_claude_loads_what_it_finds(run, model, monkeypatch):
    pytest.importorskip("anthropic")
    address, requests = model
    monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    assert run("anthropic_tool_search.py") == ["The sponge is in the kitchen."]
    deferred = [tool.get("defer_loading", False) for tool in requests[0]["tools"]]
    assert deferred == [False] + [True] * 8
    (result,) = requests[1]["messages"][-1]["content"]
    assert [one["tool_name"] for one in result["content"]][0] == BEST and len(result["content"]) == 3


@pytest.mark.slow
def test_an_openai_model_loads_what_it_finds(run, model, monkeypatch):
    pytest.importorskip("openai")
    address, requests = model
    monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert run("openai_tool_search.py") == ["The sponge is in the kitchen."]
    assert [tool["type"] for tool in requests[0]["tools"]] == ["tool_search"]
    output = requests[1]["input"][-1]
    assert [tool["name"] for tool in output["tools"]][0] == BEST and len(output["tools"]) == 3
