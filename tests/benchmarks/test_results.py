"""A page whose figures are not those of the committed files is a failing test."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from cluster import report as cluster_report
from quality import corpora_report
from quality.result_files import Results, number
from quality.results import fill, pages


def test_the_pages_are_what_the_committed_files_make():
    for path, text in pages(Results()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make results"


def test_corpora_is_what_the_committed_files_make():
    assert corpora_report.PAGE.read_text(encoding="utf-8") == corpora_report.page(), "run make results"


def test_the_page_past_one_machine_is_what_the_committed_files_make():
    assert cluster_report.PAGE.read_text(encoding="utf-8") == cluster_report.page(), "run make results"


def test_a_figure_that_was_not_measured_is_an_error_and_no_gap():
    results = Results()
    assert fill("{{minilm/hwu64}}", results) == number(results.figure("minilm", "hwu64"))
    for missing in ("{{nothing/hwu64}}", "{{minilm/hwu64/no_split}}", "{{job nothing}}"):
        with pytest.raises(KeyError):
            fill(missing, results)
