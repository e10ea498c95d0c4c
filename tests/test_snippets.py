"""What README and the pages of docs/ tell to type: commands parse, Python runs, the first page runs as it is written.

Pages name models and servers that no test may reach; :data:`STAND_INS` has what takes their place. A block that cannot
be run says why in a comment before it, and its test is skipped with that.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from pages import PAGES, ROOT, arguments, blocks, commands
from stub_teacher import StubTeacher

from rabtriever import DistillConfig
from rabtriever.cli import COMMANDS, main, make_parser
from rabtriever.cli.arguments import rename_flags

DEMO = ROOT / "src" / "rabtriever" / "demo"
PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]
NOT_RUN = [(page, block) for page in PAGES for language in ("python", "bash") for block in blocks(page, language)]
NOT_RUN = [(page, block) for page, block in NOT_RUN if block.why]
ELSEWHERE = ("README.md", "export.md", "frameworks.md")  # run by test_readme, and by tests of integrations/
RUN = sorted({page for page, block in PYTHON if not block.why and page.name not in ELSEWHERE})
INLINE = re.compile(r"`rabtriever ([a-z][^`]*)`")
QUICK = {"rounds": 1, "steps": 20, "examples": 0}


def name(value):
    return value.name if isinstance(value, Path) else None


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_every_command_parses(page, capsys):
    for argv in commands(page):
        assert rename_flags(argv) == argv, f"{page.name}: an old flag in {argv}"
        try:
            make_parser().parse_args(argv)
        except SystemExit:
            pytest.fail(f"{page.name}: rabtriever {' '.join(argv)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_line_of_a_command_is_missed(page):
    lines = re.findall(r"^\s*(?:\$ )?rabtriever (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    lines = [word for word in lines if word in COMMANDS]
    assert sorted(lines) == sorted(argv[0] for argv in commands(page)), f"{page.name}: fence them as bash or console"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_in_a_sentence_is_one(page):
    parsers = make_parser()._subparsers._group_actions[0].choices
    for words in (match[1].split() for match in INLINE.finditer(page.read_text(encoding="utf-8"))):
        if words[0] == "COMMAND":
            continue
        assert words[0] in COMMANDS, f"{page.name}: rabtriever {words[0]}"
        flags = {word.rstrip("]").partition("=")[0] for word in words if word.lstrip("[").startswith("--")}
        assert flags <= parsers[words[0]]._option_string_actions.keys(), f"{page.name}: {' '.join(words)}"


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=lambda value: name(value) or str(value.line))
def test_every_python_block_compiles(page, block):
    compile(block.code, page.name, "exec")


@pytest.mark.parametrize(("page", "block"), NOT_RUN, ids=lambda value: name(value) or str(value.line))
def test_blocks_that_cannot_be_run(page, block):
    pytest.skip(f"{page.name}, line {block.line}: {block.why}")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A folder with what pages assume: a corpus, requests, labels, choices, a retriever and its index."""
    from rabtriever import Index, distill, load_data

    folder = tmp_path_factory.mktemp("workspace")
    write_data(folder)
    data = load_data(str(folder / "labelled"))
    retriever = distill(data, [], str(folder / "retriever"), DistillConfig(**QUICK), show_progress_bar=False)
    Index.build(str(folder / "index"), retriever, data.documents.values())
    return folder


def write_data(folder):
    shutil.copy(DEMO / "corpus.jsonl", folder)
    tool = {"name": "wipe", "description": "Fetches a sponge to wipe up a spill.", "inputSchema": {"type": "object"}}
    (folder / "tools.json").write_text(json.dumps({"tools": [tool]}), encoding="utf-8")
    lines = (DEMO / "queries.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "requests.jsonl").write_text("".join(lines[:20]), encoding="utf-8")
    shutil.copytree(DEMO, folder / "labelled", ignore=shutil.ignore_patterns("no_answer.jsonl"))
    head, *rows = (DEMO / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    parts = {"train": rows[:100], "dev": rows[100:180], "test": rows[180:]}
    for split, part in parts.items():
        (folder / "labelled" / "qrels" / f"{split}.tsv").write_text(head + "".join(part), encoding="utf-8")
    texts = {row["_id"]: row["text"] for row in map(json.loads, lines)}
    choices = [row.split("\t")[:2] for row in rows[:20]]
    events = [json.dumps({"query": texts[query], "id": document}) + "\n" for query, document in choices]
    (folder / "feedback.jsonl").write_text("".join(events), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name)
def test_a_pages_python_runs(page, workspace, tmp_path, monkeypatch, sentence_folders):
    folder = tmp_path / "work"
    shutil.copytree(workspace, folder)
    monkeypatch.chdir(folder)
    stub = StubTeacher()
    stand_ins = {
        'load_data("DATA")': 'load_data("labelled")',
        '["mpnet"], "from-python"': f'["{sentence_folders["mpnet"]}"], "from-python", QUICK',
        '"Qwen/Qwen2.5-1.5B-Instruct"': '"smollm2"',
        '"tei+http://127.0.0.1:8080/rerank"': repr(stub.source("tei")),
    }
    namespace = {"__name__": "__main__", "QUICK": DistillConfig(**QUICK)}
    for block in (block for block in blocks(page, "python") if not block.why):
        code = block.code
        for written, instead in stand_ins.items():
            code = code.replace(written, instead)
        exec(compile("\n" * block.line + code, str(page), "exec"), namespace)  # a fault names the page's line


@pytest.mark.slow
def test_the_first_page_runs_as_it_is_written(tmp_path, sentence_folders, free_port, monkeypatch, capfd):
    """All blocks of start.md but the installation, one after another; the server stays up for those that follow."""
    write_data(tmp_path)
    (tmp_path / "corpus.jsonl").unlink()  # the page has it copied
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    quick = " ".join(f"--{option} {value}" for option, value in QUICK.items())
    stand_ins = {
        "--teacher mpnet": f"--teacher {sentence_folders['mpnet']} {quick}",
        "distill labelled": f"distill labelled {quick}",
        "rabtriever serve index": f"rabtriever serve index --port {free_port}",
        "127.0.0.1:8080": f"127.0.0.1:{free_port}",
    }
    server = None
    try:
        for block in blocks(ROOT / "docs" / "start.md", "bash"):
            code = block.code
            for written, instead in stand_ins.items():
                code = code.replace(written, instead)
            if code.startswith("rabtriever serve"):
                server = subprocess.Popen([sys.executable, "-m", "rabtriever.cli", *arguments(code)])
                wait_for(f"http://127.0.0.1:{free_port}/ready", server)
            elif code.startswith("rabtriever"):  # in this process: starting one for each takes seconds
                assert [main(arguments(line)) for line in code.splitlines()] == [0] * code.count("\n"), block.code
            elif "pip install" not in code:
                subprocess.run(["bash", "-ec", code], check=True)
    finally:
        if server:
            server.terminate()
            server.wait(20)
    printed = capfd.readouterr().out
    assert "index: 150 documents" in printed and "index-2: 150 documents" in printed
    answer, _ = json.JSONDecoder().raw_decode(printed, printed.index('{"hits"'))
    assert len(answer["hits"]) == 3 and answer["hits"][0].keys() >= {"id", "probability", "log_odds", "text"}
    assert "bm25" in printed and "R@1" in printed


def wait_for(url, server, seconds=60):
    for _ in range(seconds * 10):
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no answer from {url}")


@pytest.fixture
def free_port():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
