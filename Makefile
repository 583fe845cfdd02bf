# `make demo` and `make test` do all the set-up themselves; they need Python 3.11 or newer, and make.
# The environment lives in .venv. It is made once and brought up to date when one of the files in SETUP changes.

VENV    ?= .venv
WORKERS ?= 2
THREADS ?= 1
DATA    ?= ../shared/data
EXTRAS  := demo,test,lint
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
SETUP   := pyproject.toml constraints.txt Makefile
PYTEST   = OMP_NUM_THREADS=$(THREADS) $(PY) -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format docs bench clean setup

help:  ## say what can be made
	@echo "make <target>, where <target> is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-12s%s\n' "$$name" "$$text"; done

demo: $(STAMP)  ## fine-tune and compare on the shipped library messages, in a few minutes
	$(VENV)/bin/temper demo

test: lint  ## lint, types and the fast tests
	$(PYTEST)

test-slow: $(STAMP)  ## the tests that need real weights, the shared data or a build
	$(PYTEST) -m slow

lint: $(STAMP)  ## ruff (rules and format) and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)  ## let ruff rewrite the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(STAMP)  ## rewrite the generated parts of README.md
	$(PY) tools/docs.py

bench: $(STAMP)  ## the speed ratios: training against transformers' Trainer, a study against separate runs
	$(PY) benchmarks/training.py --data $(DATA)
	$(PY) benchmarks/study.py --data $(DATA)

clean:  ## remove caches and builds; the environment stays (rm -r .venv for a new one)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(STAMP)  ## make or update the environment

# An environment made by hand has no stamp: it is kept, and what it lacks is installed into it.
$(STAMP): $(SETUP)
	@test -x $(PY) || { \
	  for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  test -n "$$found" || { echo "make: no Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }; \
	  echo "Making $(VENV) with $$($$found --version) ..."; \
	  $$found -m venv $(VENV) || { rm -rf $(VENV); echo "make: $$found cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	}
	@echo "Installing tempering[$(EXTRAS)] into $(VENV): once, some minutes, most of it for torch ..."
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
