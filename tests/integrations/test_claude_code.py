"""The hook of examples/claude_code, run as Claude Code runs it: its settings' command, JSON on stdin."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from integrations.conftest import QUERY

EXAMPLE = Path(__file__).parents[2] / "examples" / "claude_code"


@pytest.fixture
def submit(tmp_path):
    """Submits a prompt in a project with the hook."""
    (hooks := tmp_path / "my project" / ".claude" / "hooks").mkdir(parents=True)
    shutil.copy(EXAMPLE / "find_skills.py", hooks)
    settings = json.loads((EXAMPLE / "settings.json").read_text())
    ((entry,),) = [one["hooks"] for one in settings["hooks"]["UserPromptSubmit"]]

    def submit(prompt, url):
        project = str(tmp_path / "my project")
        said = {"session_id": "1", "cwd": project, "hook_event_name": "UserPromptSubmit", "prompt": prompt}
        environment = os.environ | {"CLAUDE_PROJECT_DIR": project, "RABTRIEVER_URL": url, "RABTRIEVER_THRESHOLD": "0"}
        return subprocess.run(
            entry["command"],
            shell=True,
            input=json.dumps(said),
            env=environment,
            capture_output=True,
            text=True,
            timeout=entry["timeout"] * 10,  # this machine may be busy
            check=False,
        )

    return submit


def test_the_skills_of_a_search_become_context(index, submit):
    pytest.importorskip("fastapi")
    from serving.conftest import running

    with running(index) as server:
        done = submit(QUERY, server.url)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["hookSpecificOutput"]
    assert said["hookEventName"] == "UserPromptSubmit"
    hits = index.search(QUERY, 3)
    assert said["additionalContext"].splitlines()[1:] == [f"- {hit.id}: {hit.text}" for hit in hits]


def test_without_a_server_the_prompt_goes_on(submit):
    done = submit(QUERY, "http://127.0.0.1:9")
    assert done.returncode == 1  # 2 would hold the prompt back
    assert done.stdout == "" and done.stderr.startswith("rabtriever: no skills from http://127.0.0.1:9 (")
    assert len(done.stderr.splitlines()) == 1
