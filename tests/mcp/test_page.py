"""docs/mcp.md: what it shows is what the gateway reads and answers."""

import argparse
import json
import re
from pathlib import Path

import jsonschema

from rabtriever.cli.mcp import add_arguments
from rabtriever.mcp.answers import SEARCH_TOOLS
from rabtriever.sources.mcp_config import read_servers

PAGE = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
BLOCKS = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]


def test_files_of_servers_are_read_as_shown(tmp_path):
    files = [block for block in BLOCKS if "mcpServers" in block]
    assert len(files) == 2
    for block in files:
        (tmp_path / "mcp.json").write_text(json.dumps(block))
        servers = read_servers(tmp_path / "mcp.json", {"GITHUB_TOKEN": "x"})
        assert [server.name for server in servers] == list(block["mcpServers"])


def test_the_answer_is_one_that_the_tool_declares():
    answer = next(block for block in BLOCKS if "fits" in block)
    jsonschema.validate(answer, SEARCH_TOOLS.output_schema)
    assert set(answer) == set(SEARCH_TOOLS.output_schema["properties"])


def test_every_option_is_there_and_explained():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    named = set(re.findall(r"--[a-z]+", PAGE))
    assert named <= options
    assert options - named <= {"--help", "--device", "--dtype", "--backend"}


def result(name):
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "mcp" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["result"]


def test_figures_are_those_of_the_committed_files():
    for tools in (500, 5000):
        found = result(f"latency_{tools}")
        client, inside = found["client_over_stdio"], found["inside"]
        cells = [
            tools,
            f"{found['first_answer_after_servers_s']} s",
            f"{client['p50_ms']} ms",
            f"{client['p95_ms']} ms",
        ]
        cells += [f"{inside['cpu_ms']} ms", f"{found['all_encoded_after_s']} s", inside["encoded_by_a_second_start"]]
        assert f"| {' | '.join(map(str, cells))} |" in PAGE
    quality = result("quality").values()
    for system, name in (("evaluate", "`rabtriever evaluate`"), ("gateway", "through the gateway")):
        cells = [f"{of['R@5'][system]:.3f}".lstrip("0") for of in quality]
        assert f"| {name} | {' | '.join(cells)} |" in PAGE
    assert sum(of["same_first_ten"] for of in quality) == sum(of["requests"] for of in quality) == 293
    assert sum(of["exact_name_first"] for of in quality) == sum(of["tools"] for of in quality) == 382
    routing = result("routing")
    shown = f"{routing['calls']:,} calls while {routing['killed']} times a server was killed: {routing['wrong']} wrong"
    assert f"{shown}, {routing['right']:,} right, {routing['error']:,} with a clear error" in PAGE
    assert routing["unclear error"] == 0
    no_fit = result("no_fit")["as served"]
    assert (no_fit["served"]["mean"], max(no_fit["served"].values())) == (0.008, 0.032)
    assert round(no_fit["not served"]["mean"], 2) == 0.56
