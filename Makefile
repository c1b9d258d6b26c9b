# Developer commands. `make` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
SOURCES := pyproject.toml setup.py constraints.txt
# Processes of the tests.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv run test test-system .kernels lint docs audit torture fuzz fuzz-short test-ray test-docker clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What the server needs. Groups of dependencies need pip 25.1.
$(VENV)/.server: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make venv PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade 'pip>=25.1'
	$(INSTALL) --editable '.[server]'
	@touch $@

$(VENV)/.dev: $(VENV)/.server
	$(INSTALL) --editable '.[server,files,arrow,cluster,kafka,nats,mlflow,traces,plot]' --group dev
	@touch $@

venv: $(VENV)/.dev ## Create the environment .venv, with everything that developers need

run: $(VENV)/.server ## Start the server, and watch it learn a real data set (ONCE=1: stop it afterwards)
	@$(BIN)/bnp-online demo $(if $(ONCE),--once)

# The processes of the tests would each compile the kernels into an empty cache; those of float64 are for tests alone.
WARM = from torch import float64; from bnp_online.engines.base import LearnerSpec; \
	from bnp_online.engines.numba_engine import NumbaEngine; NumbaEngine(LearnerSpec(task="classification"), float64).prepare_explanations()

.kernels: venv
	$(BIN)/python -c 'from bnp_online import BNPClassifier, blocks; BNPClassifier().prepare_explanations(); blocks.compile_kernels()()'
	$(BIN)/python -c '$(WARM)'

# Tests of whole programs.
SYSTEM := $(addprefix tests/,benchmarks browser cluster docs examples fuzz openapi packaging recovery tools)
PYTEST := $(BIN)/python -m pytest -m 'not docker and not fuzz and not ray' --numprocesses $(WORKERS) --dist loadfile \
	--no-loadscope-reorder

test: lint .kernels ## Check style, types and imports, and test the library and the server
	$(PYTEST) $(addprefix --ignore=,$(SYSTEM))

test-system: .kernels ## Test whole programs: kills, clusters, brokers, browsers, the commands of the pages, benchmarks
	$(PYTEST) $(SYSTEM)

lint: venv ## Check style, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The variable suppresses a notice about MkDocs 2; pyproject.toml requires MkDocs 1.
docs: venv ## Build the documentation into build/site (SERVE=1: show it while you write)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(if $(SERVE),serve,build --strict)

audit: venv ## Check installed packages for known vulnerabilities and licences (needs a network)
	$(INSTALL) --group audit
	$(BIN)/python -m tools.audit

torture: venv ## Kill the server fifty times under load, then five minutes amid everything else, then with faults
	BNP_TEST_KILLS=50 BNP_TEST_CHAOS_SECONDS=300 $(BIN)/python -m pytest tests/recovery/test_kill.py \
		tests/recovery/test_chaos.py -k 'again_and_again or any_end or planted' --timeout 3600 -s
	BNP_TEST_FAULTS=10 $(BIN)/python -m pytest tests/cluster --timeout 3600 -s

fuzz: venv ## Send generated and malformed requests to the server (half an hour)
	BNP_TEST_FUZZ_SECONDS=300 $(BIN)/python -m pytest tests/fuzz -m fuzz -s

fuzz-short: venv ## Send the same generated requests in every run (three minutes)
	BNP_TEST_EXAMPLES=20 $(BIN)/python -m pytest tests/fuzz/test_document.py tests/fuzz/test_stateful.py -m fuzz

# Ray sends nothing elsewhere, and needs no token on this machine.
test-ray: venv ## Run servers on a real Ray cluster on this machine, and kill them
	$(INSTALL) --editable '.[ray]'
	RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled $(BIN)/python -m pytest tests/ray -m ray -s

test-docker: venv ## Build the image and test it with a Docker engine
	docker/test.sh

clean: ## Remove the environment and every cache
	rm -rf $(VENV) wheels build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
