# Two commands go from nothing to finished: `make quickstart` and `make test`. Both set up .venv by themselves.
PY := .venv/bin/python
.PHONY: help quickstart test check setup bench

help:
	@echo "make quickstart   raw files -> store -> plan -> packs -> a model that sees; about 5 minutes on 2 cores"
	@echo "make test         lint, types, all tests"
	@echo "make check        lint and types only"
	@echo "make bench Q=name one benchmark of benchmarks/, result in benchmarks/results/name.json"

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
