# make install, make train, make test … ; `make` lists them.
PYTHON ?= .venv/bin/python

help: ## these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: ## a virtual environment with everything for developing
	python3 -m venv .venv
	$(PYTHON) -m pip install -q -c constraints.txt -e '.[test]'

train: ## the embedded model and images
	$(PYTHON) train.py

test: ## the default tests: offline, on a CPU, a few minutes
	$(PYTHON) -m pytest

test-slow: ## the slow tests
	$(PYTHON) -m pytest -m 'slow and not gpu'

test-gpu: ## the tests that need an accelerator
	$(PYTHON) -m pytest -m gpu

lint: ## ruff and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m basedpyright --pythonpath $(PYTHON)

format: ## lets ruff put the code in order
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

docs: ## the pages that are written from code: parameters and settings
	$(PYTHON) -m loralab.tools.parameters_page
	$(PYTHON) -m loralab.command.reference

.PHONY: help install train test test-slow test-gpu lint format docs
