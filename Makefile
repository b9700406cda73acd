# make setup   .venv with the package and its dev extra, at the tested versions
# make demo    render, fine-tune, infer and judge on this machine: runs/demo/report.html
# make test    ruff, then the default test suite
# make lint    ruff alone

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python -m sdseg.demo --output runs/demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
