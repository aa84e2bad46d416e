# The two commands: `make run` and `make test`. Everything is installed into .venv, made with PYTHON (3.12 or later).

PYTHON ?= python3
PORT ?= 8080
PAGE_PORT ?= 8090
WEB_PORT ?= 8081
UPSTREAM ?=
AKTO ?=
VENV := .venv
BIN := $(VENV)/bin

# The oldest mitmproxy that is supported, one between, the newest that was tested (speedups/versions.py).
ENGINES := 12.1.0 12.2.3 12.3.1
ENGINE_TESTS := tests/lane/test_client.py tests/lane/test_lent.py tests/lane/test_same.py tests/proxy tests/speedups tests/workers \
	tests/test_phases.py tests/test_streams.py tests/test_transparency.py

.PHONY: help install wheel run debug test test-engines $(ENGINES:%=test-engine-%) test-lane test-laws lint types bench pictures soak clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## The package and its dependencies in .venv

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

# Moesif's client for Node, a real client of the local collector; without it its test says what is missing.
$(VENV)/.node:
	@npm install --silent --no-audit --no-fund --prefix $(VENV)/node moesif-nodejs@3.11.0 && touch $@ || \
		echo "moesif-nodejs cannot be installed here: its test will fail." >&2

# Without it `make run` serves the received events alone, and says so.
$(VENV)/.page: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[page]' && touch $@ || \
		echo "The traffic page's packages cannot be installed here: there will be the received events alone." >&2

wheel: $(VENV)/.installed ## A wheel in dist/, to install elsewhere
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

run: install $(VENV)/.page ## Proxy, echo upstream, collector and traffic page; see PORT, PAGE_PORT, UPSTREAM, AKTO
	@exec $(BIN)/python -m mitmproxy_moesif run --port $(PORT) --page-port $(PAGE_PORT) --upstream '$(UPSTREAM)' $(if $(AKTO),--akto)

debug: install ## mitmweb in the proxy's place, to look at traffic; see PORT, WEB_PORT, PAGE_PORT and UPSTREAM
	@exec $(BIN)/python -m mitmproxy_moesif debug --port $(PORT) --web-port $(WEB_PORT) --page-port $(PAGE_PORT) \
		--upstream '$(UPSTREAM)'

test: lint types $(VENV)/.node ## Lint, types and all tests, with their coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses 6 --dist loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# What depends on mitmproxy's private interfaces, on each of ENGINES; not part of `make test`.
test-engines: $(ENGINES:%=test-engine-%) ## The engine's tests on each mitmproxy of ENGINES

$(ENGINES:%=test-engine-%): test-engine-%: .venv-engines/%/.tools
	.venv-engines/$*/bin/python -m pytest --numprocesses 2 --dist loadfile $(ENGINE_TESTS)

.venv-engines/%/.tools: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group test mitmproxy==$*
	touch $@

# What drives the proxy's sockets, with mitmproxy's layers in place of the fast lane; not part of `make test`.
LAYERS_TESTS := tests/proxy tests/test_left_to_kong.py tests/test_one_reading.py tests/test_phases.py tests/test_streams.py \
	tests/test_transparency.py

test-lane: $(VENV)/.tools ## The fast lane's tests with 3,000 examples each, and the engine's with mitmproxy's layers
	TEST_LANE_EXAMPLES=3000 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --timeout 400 tests/lane
	TEST_ENGINE=mitmproxy $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --timeout 400 $(LAYERS_TESTS)

test-laws: $(VENV)/.tools ## The property tests with many new examples each
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -m hypothesis --numprocesses 2 --timeout 1200

lint: $(VENV)/.tools ## Ruff, and the schemas of the files that the forge reads
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

types: $(VENV)/.tools ## Mypy, strict
	$(BIN)/mypy

bench: $(VENV)/.tools ## Speed; what else it measures: make bench ARGS=--help
	$(BIN)/python -m tests.bench $(ARGS)

pictures: $(VENV)/.tools ## The pictures in .github/images, of the traffic page and mitmweb in Debian's Chromium
	$(BIN)/python -m tests.pictures

soak: $(VENV)/.tools ## Ten minutes with random faults; not part of `make test`
	$(BIN)/python -m tests.soak
	MOESIF_TEST_KILLS=100 $(BIN)/python -m pytest -q tests/test_delivery.py -k kill_9
	TEST_LANE_ANSWERS=100000 $(BIN)/python -m pytest -q --timeout 300 tests/lane/test_load.py
	MOESIF_TEST_HAR_MEGABYTES=1000 $(BIN)/python -m pytest -q -s tests/backfill/test_main.py -k 'memory or large' --timeout 1200

clean: ## Removes .venv and all that was built or cached
	rm -rf $(VENV) .venv-engines .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
