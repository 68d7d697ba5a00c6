# `make quickstart` runs the whole pipeline on sample data, `make test` runs all checks. Both set up .venv first.
PY := .venv/bin/python
.PHONY: help quickstart test check setup bench

help:
	@echo "make quickstart   raw files -> stores -> plan -> packs -> a trained vision-language model; about 5 minutes on 2 cores"
	@echo "make test         lint, types, all tests"
	@echo "make check        lint and types only"
	@echo "make bench Q=NAME one benchmark of benchmarks/; writes benchmarks/results/NAME.json"

setup:
	@./setup.sh

quickstart: setup
	@$(PY) millrace.py run manifests/data/quickstart.yaml

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: check
	$(PY) -m pytest -n 2

bench: setup
	$(PY) -m benchmarks.$(Q)
