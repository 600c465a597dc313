# Everything a newcomer needs: `make run` (the hub) and `make test`. Both set up .venv first.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two processes of one thread each end sooner than one of two.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup run test check

help:
	@echo "make run     set up and serve the hub on http://127.0.0.1:$(PORT) (PORT=9000 make run for another port)"
	@echo "make test    set up and run every test"
	@echo "make check   ruff, pyright, import-linter, the generated README table, and every test"
	@echo "make setup   create $(VENV) and install (done by the others)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Fullrank needs Python 3.11 or newer; $(PYTHON) is older. Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[adapt,search,servers,order,compress,hub,dev]"
	@touch $(STAMP)

run: setup
	@$(BIN)/fullrank serve --port $(PORT)

test: setup
	$(PYTEST)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/fullrank papers --readme README.md --check
	$(PYTEST)
