import argparse
import json
from argparse import Namespace
from functools import partial

import pytest

from rabtriever.cli import main
from rabtriever.cli.mcp import _state
from rabtriever.index import Index
from rabtriever.index.learned import Learned
from rabtriever.mcp.pins import Pins
from rabtriever.scoring.calibration import Calibration


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"notes": {"command": "notes"}}}))
    return path


def test_a_file_in_object_storage_has_a_state_of_its_own_wherever_it_is_read_from(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    parse = partial(Namespace, state=None)
    states = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        states.append(_state(parse(config="s3://bucket/mcp.json")))
        states.append(_state(parse(config="mcp.json")))
    assert states[0] == states[2] and len(set(states)) == 3
    assert _state(parse(config=(tmp_path / "there" / "mcp.json").as_uri())) == states[3]


def run(config, *arguments):
    return main(["mcp", "--config", str(config), "--state", str(config.parent / "state"), *arguments])


def see(config, **descriptions):
    tools = [{"name": name, "description": text, "inputSchema": {}} for name, text in descriptions.items()]
    Pins(config.parent / "state" / "tools").saw("notes", tools)


def test_what_changed_is_shown_and_approved_by_name(config, capsys):
    see(config, read="Reads", write="Writes")
    assert run(config, "--approve") == 0 and "no tool has changed" in capsys.readouterr().out
    see(config, read="Reads, mails\u202e\U000e0041é", write="Writes, mails")
    assert run(config, "--approve") == 0
    shown = capsys.readouterr().out
    assert "notes.read" in shown and '"Reads"' in shown
    assert '"Reads, mails\\u202e\\U000e0041é"' in shown  # what a terminal would hide
    read, write = (line.split()[1] for line in shown.splitlines() if line.startswith("  --approve "))
    assert run(config, "--approve", read) == 0 and "approved: notes.read" in capsys.readouterr().out
    assert run(config, "--approve", "--json") == 0
    changed = json.loads(capsys.readouterr().out)["changed"]
    assert list(changed) == ["notes.write"] and changed["notes.write"]["approve"] == write
    see(config, read="Reads", write="Writes, mails, deletes")
    assert run(config, "--approve", write) == 2 and "has another text than" in capsys.readouterr().err
    assert run(config, "--approve", "notes.read") == 2 and "lacks a digest" in capsys.readouterr().err
    assert run(config, "--approve", "notes.nothing@0") == 2
    assert "no tool 'notes.nothing'; find its name with search_tools" in capsys.readouterr().err


def test_a_name_forges_no_line(config, capsys):
    forged = "read\x1b[2K\rnotes.safe"
    see(config, **{forged: "Reads"})
    see(config, **{forged: "Reads, mails"})
    assert run(config, "--approve") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\r" not in shown and "notes.read\\x1b[2K\\rnotes.safe" in shown


def test_approvals_are_kept_outside_the_cache(config, monkeypatch, tmp_path):
    for where in ("HOME", "XDG_STATE_HOME", "RABTRIEVER_CACHE"):
        monkeypatch.setenv(where, str(tmp_path / where))
    parsed = argparse.Namespace(config=str(config), state=None)
    assert _state(parsed).parent == tmp_path / "XDG_STATE_HOME" / "rabtriever" / "mcp"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert _state(parsed).parent == tmp_path / "HOME" / ".local" / "state" / "rabtriever" / "mcp"


def test_rollback_goes_back_one_version(config, capsys, retriever):
    assert run(config, "--rollback") == 2
    assert "nothing was learnt" in capsys.readouterr().err
    index = Index.create(config.parent / "state" / "index-abc", retriever)
    index.learned.save(Learned(None, Calibration()), 0)
    assert run(config, "--rollback") == 0 and index.learned.current == 0
    assert "its retriever as it was saved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--rerank", "0"], "--rerank 0: let the reranker read at least one tool"),
        (["--model", "no-such-model"], "no-such-model: no model"),
        (["--feedback", "digests"], "$RABTRIEVER_FEEDBACK_KEY is not set"),
        (["--http", "0.0.0.0:0"], "give API keys"),
        (["--keys", "nowhere"], "keys cannot be read"),
        (["--approve", "--rollback"], "not allowed with argument"),
    ],
)
def test_bad_options_are_one_line(config, capsys, monkeypatch, arguments, fault):
    monkeypatch.delenv("RABTRIEVER_FEEDBACK_KEY", raising=False)
    assert run(config, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("rabtriever mcp: ") and fault in said and said.count("\n") == 1


@pytest.mark.parametrize("option", [["--approve"], ["--rollback"], ["--feedback", "texts"], ["--state", "x"]])
def test_an_index_has_no_tools_to_approve_or_learn_from(capsys, option):
    assert main(["mcp", "--index", "nowhere", *option]) == 2
    said = capsys.readouterr().err
    assert f"{option[0]} is of the tools of --config; leave it out with --index" in said and said.count("\n") == 1


def test_one_of_config_and_index_is_needed(capsys, tmp_path):
    assert main(["mcp"]) == 2 and "one of the arguments --config --index is required" in capsys.readouterr().err
    assert main(["mcp", "--index", str(tmp_path / "nowhere")]) == 2 and "no such index" in capsys.readouterr().err
    assert main(["mcp", "--config", str(tmp_path / "nowhere")]) == 2 and "give a JSON file" in capsys.readouterr().err
