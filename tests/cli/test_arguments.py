from dataclasses import dataclass, field

import pytest

from rabtriever.cli import main
from rabtriever.cli.arguments import (
    RENAMED_FLAGS,
    Parser,
    add_config_arguments,
    add_model_arguments,
    config_from_args,
    load_options,
    rename_flags,
)
from rabtriever.training.config import DistillConfig, RerankerTrainingConfig


@dataclass(frozen=True)
class Config:
    count: int = field(default=3, metadata={"help": "a count"})
    share: float = field(default=0.5, metadata={"help": "a share of 100%%"})
    kind: str = field(default="a", metadata={"help": "a kind", "choices": ("a", "b")})
    max_size: int | None = field(default=None, metadata={"help": "a limit"})


@pytest.fixture
def parser():
    parser = Parser(prog="rabtriever test")
    add_config_arguments(parser, Config)
    return parser


def test_flags_and_back(parser):
    assert config_from_args(parser.parse_args([]), Config) == Config()
    argv = ["--count", "4", "--share", "1e-1", "--kind", "b", "--max-size", "7"]
    assert config_from_args(parser.parse_args(argv), Config) == Config(4, 0.1, "b", 7)


def test_help_has_defaults_and_choices(parser):
    text = " ".join(parser.format_help().split())
    assert "--count INT a count (default: 3)" in text and "--kind {a,b} a kind (default: a)" in text
    assert "--max-size INT a limit (default: none)" in text and "100% (default" in text


@pytest.mark.parametrize("argv", [["--kind", "c"], ["--count", "x"], ["--magic"], ["--count"]])
def test_a_fault_is_one_line(parser, capsys, argv):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(argv)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_defaults_of_both_trainings_survive_the_flags():
    for config in (DistillConfig, RerankerTrainingConfig):
        parser = Parser()
        add_config_arguments(parser, config)
        assert config_from_args(parser.parse_args([]), config) == config()


def test_only_what_was_given_is_passed_to_from_pretrained():
    parser = Parser()
    add_model_arguments(parser, "which")
    assert load_options(parser.parse_args([])) == {}
    argv = ["--device", "cuda:1", "--dtype", "float16", "--backend", "torch", "--model", "m"]
    assert load_options(parser.parse_args(argv)) == {"device": "cuda:1", "dtype": "float16", "backend": "torch"}


REQUIRED = {
    "train": ["nowhere", "--out", "t"],
    "distill": ["nowhere", "--out", "s", "--teacher", "t"],
    "evaluate": ["nowhere", "--model", "m"],
}


OLD_FLAGS = [(command, old) for command, flags in RENAMED_FLAGS.items() for old in flags]


@pytest.mark.parametrize("form", ["separate", "joined"])
@pytest.mark.parametrize(("command", "old"), OLD_FLAGS)
def test_an_old_flag_works_and_is_reported(tmp_path, monkeypatch, capsys, command, old, form):
    monkeypatch.chdir(tmp_path)
    value = "0.5" if old in ("--hard", "--mse-weight") else "3"
    argv = [command, *REQUIRED[command], *([old, value] if form == "separate" else [f"{old}={value}"])]
    assert main(argv) == 2  # of "nowhere": the flag was read
    lines = capsys.readouterr().err.splitlines()
    assert f"rabtriever {command}: {old} is now --" in lines[0] and "nowhere" in lines[1]


def test_a_flag_means_what_its_command_says():
    assert rename_flags(["train", "x", "--queries", "4"])[2] == "--queries-per-step"
    assert rename_flags(["distill", "x", "--queries=4"])[2] == "--queries=4"
    for unchanged in (["distill", "--pooling", "mean"], ["--version"], ["search", "--pool"], []):
        assert rename_flags(unchanged) == unchanged


@pytest.mark.parametrize(
    "argv",
    [
        *(
            ["index", "corpus.jsonl", "--out", "index", flag, "2"]
            for flag in ("--shards", "--ray-workers", "--ray-cpus")
        ),
        ["judge", "data", "--teacher", "x", "--out", "scores", "--ray-gpus", "1"],
        ["serve", "index", "--replicas", "2"],
    ],
)
def test_what_counts_on_a_cluster_alone_is_refused_without_one(capsys, argv):
    assert main(argv) == 2
    assert f"{argv[-2]}: goes with --ray" in (error := capsys.readouterr().err) and error.count("\n") == 1
