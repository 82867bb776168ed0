# make help says what there is. Nothing but Python 3.11 or newer has to be installed.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
READY := $(VENV)/.installed
DEMO := runs/demo

.PHONY: help venv test demo clean

help:
	@echo "make venv    set up $(VENV) with everything that the project uses"
	@echo "make test    set up, then run every check: style, types, import directions, tests"
	@echo "make demo    set up, train PPO on CartPole-v1, draw its learning curve and gradients"
	@echo "make clean   remove $(VENV) and the caches; runs/ is kept"
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter, VENV=DIR the environment's folder."

venv: $(READY)

# The versions are pinned, so that what worked once works again. An install that breaks off leaves
# no stamp and is taken up again by the next make.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "make: Python 3.11 or newer was not found; name one with PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: $(PYTHON) is not Python 3.11 or newer ($$($(PYTHON) --version 2>&1));" \
			"name one with PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "make: $(PYTHON) has no venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
		exit 1; }
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $(READY)

# One thread a test process: with small networks two threads on one core are slower than one.
test: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

demo: $(READY)
	$(VENV)/bin/python scripts/train_ppo.py --env CartPole-v1 --seed 1 --out $(DEMO) --overwrite
	$(VENV)/bin/python scripts/plot.py $(DEMO) --out $(DEMO)/returns.png
	$(VENV)/bin/python scripts/plot.py $(DEMO) --kind gradients --out $(DEMO)/gradients.png

clean:
	rm -rf $(VENV) build dist *.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find agents envs scripts tests -name __pycache__ -prune -exec rm -rf {} +
