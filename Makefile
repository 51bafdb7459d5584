# `make demo` and `make test` need Python >= 3.11 with venv, make and the public package registries; nothing else.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Read by tests and benchmarks too: nothing may reach for a model hub or send usage statistics.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install demo check docs format test test-integrations test-browser fuzz bench bench-embed bench-gpu bench-query bench-overload chaos mutants lock clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed ## create .venv and install the hash-pinned lock into it

# uv is itself pinned in the lock: pip installs only that block of it, uv the rest (minutes faster than pip).
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "milvus-stream needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	awk '/^[a-z]/ {on = /^uv==/} on' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: install ## start Kafka and Milvus Lite here, ingest real documents, search them
	$(BIN)/milvus-stream demo $(ARGS)

check: install ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install ## write the reference of all settings into docs/configuration.md
	$(BIN)/python -m tests.docs.configuration

format: install ## apply the formatter and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# More workers than cores: most of them wait for a server, a process or the end of a session.
WORKERS ?= 4
test: install ## every test, against real Apache Kafka and a real Milvus server
	$(BIN)/pytest --numprocesses $(WORKERS) $(ARGS)

# Other programs need other versions of the same packages, so each lock is an environment of its own.
.venv-%/.installed: requirements-%.lock $(VENV)/.installed
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-$*
	$(BIN)/uv pip sync --quiet --python .venv-$*/bin/python --require-hashes requirements-$*.lock
	touch $@

test-integrations: .venv-integrations/.installed .venv-integrations-llamaindex/.installed ## LangChain, LlamaIndex, Haystack and others open a collection made here
	INTEGRATIONS=1 $(BIN)/pytest --numprocesses 0 tests/integrations $(ARGS)

# Debian's Chromium; another one: make test-browser CHROMIUM=/path/to/chromium
CHROMIUM ?= chromium
export CHROMIUM
$(VENV)/.browser: tests/browser/requirements.txt $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r tests/browser/requirements.txt
	touch $@

test-browser: $(VENV)/.browser ## the page of the query worker in a real Chromium; installs Debian's where there is none
	@command -v $(CHROMIUM) > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || { echo "install Chromium, or name one: make $@ CHROMIUM=/path/to/chromium" >&2; exit 2; }
	$(BIN)/pytest -o python_files='browser_*.py' tests/browser $(ARGS)

fuzz: .venv-fuzz/.installed ## 20,000 requests by openapi.json to every route of a query worker: make fuzz ARGS="--requests N --seed S"
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: install ## measure this machine against the loop everybody writes, about 25 minutes; see docs/benchmarks.md
	$(BIN)/python -m tests.bench $(ARGS)

bench-embed: install ## the embedding engine against its targets, about 30 minutes; ARGS="--only speed" for a part
	$(BIN)/python -m tests.bench.embedding $(ARGS)

bench-gpu: install ## the embedding engine on this machine's GPU: speed, memory, streams, quality; under 8 minutes
	$(BIN)/python -m tests.bench.embedding --only gpu --only gpu-checks --only quality --rounds 2 $(ARGS)

bench-query: install ## what searches by meaning, words and both find, about 5 minutes; see docs/benchmarks.md
	$(BIN)/python -m tests.bench.query $(ARGS)

bench-overload: install ## both workers under ten times the load and over 8 minutes; ARGS="--only burst", "--minutes 2"
	$(BIN)/python -m tests.bench.overload $(ARGS)

chaos: install ## workers under seeded faults, then an exact comparison: make chaos MINUTES=10 SEED="1 2"
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) $(ARGS)

mutants: install ## break the code in known ways, one at a time; fails where no test notices, an hour or two
	$(BIN)/python -m tests.mutation $(ARGS)

lock: install ## resolve the newest versions allowed by pyproject.toml into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra local --extra int8 --extra oidc --extra mcp --extra langchain --extra registry --group dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" --upgrade --output-file requirements.lock
	for group in integrations integrations-llamaindex fuzz; do \
	  $(BIN)/uv pip compile --group pyproject.toml:$$group --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --custom-compile-command "make lock" --upgrade --output-file requirements-$$group.lock || exit; \
	done
	$(BIN)/uv pip compile tests/browser/requirements.in --constraint requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --upgrade \
	  --output-file tests/browser/requirements.txt

clean: ## remove .venv and every cache
	rm -rf $(VENV) .venv-* .data .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist ./*.egg-info
