# Every target makes the virtual environment first, if it is missing or older than the requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo docs test test-slow test-faults bench-quick check format clean

help:
	@echo "make demo         install, run the whole method on the embedded glyphs, print where the report is"
	@echo "make test         install, run the tests"
	@echo "make test-slow    the tests that take minutes, too"
	@echo "make test-faults  every fault on a cluster of several raylets: kills, full disks, SIGTERM, ..."
	@echo "make bench-quick  ratios of speed, under 5 minutes; fails below the recorded floors"
	@echo "make docs         install mkdocs, build the documentation into site/, with every link checked"
	@echo "make check        format, lint and types, without changing anything"
	@echo "make format       format and mend what can be mended"

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "== installing into $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(VENV)/installed
	@echo "== the whole method on the embedded glyphs"
	$(BIN)/raydistill run --config configs/glyphs.yaml

test: $(VENV)/installed
	@echo "== tests"
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/installed
	@echo "== all tests"
	$(BIN)/python -m pytest

test-faults: $(VENV)/installed
	@echo "== faults"
	$(BIN)/python -m pytest tests/faults tests/on_ray/test_nodes.py tests/on_ray/test_pipeline_on_ray.py tests/test_job.py tests/test_pipeline.py

bench-quick: $(VENV)/installed
	@echo "== ratios of speed against their floors"
	$(BIN)/python -m benchmarks.speed --quick

docs: $(VENV)/installed
	@echo "== the documentation into site/"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m mkdocs build --strict

check: $(VENV)/installed
	@echo "== format, lint, types"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build site *.egg-info
