# Every developer command. `make` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Of the tests; what they wait for is seldom the processor.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(MAKEFILE_LIST))

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## Make the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make venv PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: venv ## Start the server and watch it learn a real stream (ONCE=1: end after the stream)
	@$(BIN)/python -m service.cli.demo $(if $(ONCE),--once)

serve: venv ## Start the server alone
	@$(BIN)/python -m service

test: venv lint types imports tests ## Everything that must hold before a change lands

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

imports: venv
	$(BIN)/lint-imports

tests: venv
	$(BIN)/python -m pytest -m 'not docker and not fuzz' --numprocesses $(WORKERS) --dist loadfile

# The variable keeps mkdocs-material's notice about MkDocs 2 out of what is printed; constraints.txt pins MkDocs 1.
docs: venv ## Build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: venv ## Show the documentation while it is written
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

audit: venv ## Known vulnerabilities and licences of all that is installed (needs a network)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[audit]'
	$(BIN)/python -m tools.audit

bench-conditioning: venv ## The Hessian's condition along training (docs/method.md)
	$(BIN)/python -m benchmarks conditioning

torture: venv ## Kill the server fifty times under load (some minutes)
	BNP_TEST_KILLS=50 $(BIN)/python -m pytest tests/recovery/test_kill.py -k again_and_again --timeout 3600 -s

fuzz: venv ## Schemathesis, long sequences of requests, 100,000 malformed bodies (half an hour)
	BNP_TEST_FUZZ_SECONDS=300 $(BIN)/python -m pytest tests/fuzz -m fuzz -s

format: venv ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-quality: venv ## Prequential quality against the rivals (DATA_DIR=…: with MNIST; docs/benchmarks.md)
	$(BIN)/python -m benchmarks quality $(if $(DATA_DIR),--data-dir '$(DATA_DIR)')

bench-speed: venv ## Speed, memory and start of the compiled engine (docs/benchmarks.md)
	$(BIN)/python -m benchmarks speed

bench-http: venv ## The server against endpoints that do nothing; needs wrk (docs/benchmarks.md)
	$(BIN)/python -m benchmarks http

DESCENDANT = $(BIN)/python -m benchmarks $(1) --out docs/benchmarks/$(1).json --figure docs/benchmarks/$(1).png \
	--markdown docs/descendants.md

bench-langevin: venv ## Effective samples a second of Langevin samplers (docs/descendants.md)
	$(call DESCENDANT,langevin)

bench-intervals: venv ## Coverage and width of predictive intervals (docs/descendants.md)
	$(call DESCENDANT,intervals)

bench-bandit: venv ## Regret of contextual bandits (docs/descendants.md)
	$(call DESCENDANT,bandit)

bench-descendants: venv ## Optimizers and regularizers over BNP, a sample a step (DATA_DIR=…: with MNIST; docs/descendants.md)
	$(call DESCENDANT,optimizers) $(if $(DATA_DIR),--data-dir '$(DATA_DIR)')

bench-paper: venv ## The claims of the paper, reduced; needs DATA_DIR=… (docs/paper.md)
	$(BIN)/python -m benchmarks paper mlp $(if $(DATA_DIR),--data-dir '$(DATA_DIR)')
	$(BIN)/python -m benchmarks paper conv $(if $(DATA_DIR),--data-dir '$(DATA_DIR)')
	$(BIN)/python -m benchmarks paper cost

test-docker: venv ## Build the image and test it with a real Docker engine
	docker/test.sh

wheels: venv ## Fill wheels/ for a build without a network
	docker/wheels.sh

clean: ## Remove the environment and every cache
	rm -rf $(VENV) wheels build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
