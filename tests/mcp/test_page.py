"""docs/mcp.md: what it shows is what the gateway reads and answers."""

import argparse
import json
import re
from pathlib import Path

import jsonschema

from rabtriever.cli.mcp import add_arguments
from rabtriever.mcp.answers import SEARCH_TOOLS
from rabtriever.mcp.config import read_servers

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
