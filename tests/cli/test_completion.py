"""`rabtriever completion`: what a shell offers after a tab."""

import json
import shutil
import subprocess

import pytest

from rabtriever.cli import COMMANDS, main
from rabtriever.cli.completion import SHELLS


@pytest.fixture
def script(capsys):
    def printed(shell):
        assert main(["completion", shell]) == 0
        return capsys.readouterr().out

    return printed


@pytest.fixture
def complete(script, tmp_path):
    """What bash offers for a line, with the cursor at its end."""
    path = tmp_path / "completion.bash"
    path.write_text(script("bash"))
    (tmp_path / "corpus.jsonl").touch()

    def offered(line):
        words = line.split(" ")
        call = f"""
source {path}
COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1} COMP_LINE="{line}" COMP_POINT={len(line)}
[ -n "{words[-1]}" ] || COMP_WORDS+=("")
handler=$(complete -p rabtriever | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$handler" rabtriever "{words[-1]}" "{words[-2]}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        done = subprocess.run(["bash", "-c", call], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    return offered


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_one_that_the_shell_reads(script, shell, tmp_path):
    path = tmp_path / "script"
    path.write_text(script(shell))
    assert all(command in path.read_text() for command in COMMANDS)
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_choices_and_files(complete):
    assert complete("rabtriever dis") == {"distill"}
    assert set(COMMANDS) <= complete("rabtriever ")
    assert complete("rabtriever search index rain --thr") == {"--threshold"}
    assert complete("rabtriever search index rain --mode e") == {"exact", "encoder"}
    assert complete("rabtriever index cor") == {"corpus.jsonl"}
    assert complete("rabtriever completion z") == {"zsh"}


def test_json_holds_the_script(capsys):
    assert main(["completion", "bash", "--json"]) == 0
    assert "complete " in json.loads(capsys.readouterr().out)["script"]
