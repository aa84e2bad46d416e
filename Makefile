# The two commands: `make run` and `make test`. Everything is installed into .venv, made with PYTHON (3.12 or later).

PYTHON ?= python3
PORT ?= 8080
PAGE_PORT ?= 8090
UPSTREAM ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install run test lint types bench soak clean

install: $(VENV)/.installed

# The package and its dependencies suffice to run; the tools of the tests come when they are needed.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
		{ echo "Python 3.12 or later is needed; give it as: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.tools: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group test
	touch $@

run: install
	@exec $(BIN)/python -m mitmproxy_moesif run --port $(PORT) --page-port $(PAGE_PORT) --upstream '$(UPSTREAM)'

test: lint types
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.tools
	$(BIN)/mypy

# What else it measures: make bench ARGS=--help
bench: $(VENV)/.tools
	$(BIN)/python -m tests.bench $(ARGS)

# Ten minutes with random faults; not part of `make test`.
soak: $(VENV)/.tools
	$(BIN)/python -m tests.soak
	MOESIF_TEST_KILLS=100 $(BIN)/python -m pytest -q tests/test_delivery.py -k kill_9

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
