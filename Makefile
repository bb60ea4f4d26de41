# Two commands for a fresh machine: `make run` and `make test`. Both make their own environment.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

.PHONY: run test lint clean

run: $(VENV)/.installed
	$(VENV)/bin/segsrv serve $(ARGS)

test: $(VENV)/.tests-installed
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.tests-installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.tests-installed: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest build dist *.egg-info
