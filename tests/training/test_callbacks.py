import json

from rabtriever.training.callbacks import JsonlLogger


def test_metrics_are_lines_of_json_on_stderr_and_in_the_file(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    logger = JsonlLogger(path)
    logger.on_log(1, {"loss": 0.5})
    JsonlLogger(path).on_log(2, {"loss": 0.25, "accuracy": 1})  # goes on after an interruption
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "accuracy": 1}]
    output = capsys.readouterr()
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines
    assert [json.loads(line) for line in output.err.splitlines()] == lines
    assert output.out == ""  # stdout is the command's answer


def test_without_a_path_nothing_is_written_to_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    JsonlLogger().on_log(0, {"loss": 1.0})
    assert json.loads(capsys.readouterr().err) == {"step": 0, "loss": 1.0}
    assert not list(tmp_path.iterdir())
