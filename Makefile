# Everything a stranger needs: Python >= 3.11 and make. `make audit` answers the question, `make test` proves the tool.
# `make test` ends in minutes; `make test-all`, which CI runs, adds what takes longer, or a browser, or several processes.
# PYTEST passes options on to either, such as PYTEST='-k store'.
# `make bench` measures what it costs; BENCH passes options on, such as BENCH='store --rounds 3'.
# `make soak` kills a study 200 times and compares; SOAK passes another number on, and a seed: SOAK='20 7'.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Modules are compiled once and kept, whatever the shell says: most tests that start a process wait for its imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: audit test test-all test-lowest coverage check docs dist wheel-check bench soak fuzz audit-dependencies clean

audit: $(VENV)/.installed
	$(BIN)/prunetune audit

PYTESTS := $(BIN)/pytest -n auto --dist worksteal
QUICK := not slow and not cluster and not browser

test: $(VENV)/.installed-dev
	$(PYTESTS) -m '$(QUICK)' $(PYTEST)

# Exporters and runtimes of others come first and in processes of their own: one of these has ended late in a long run,
# without a word. A selection (PYTEST) may have no test in one of the two.
OR_NONE := $(if $(PYTEST),|| [ $$? = 5 ])
test-all: $(VENV)/.installed-dev
	$(PYTESTS) tests/deploy $(PYTEST) $(OR_NONE)
	$(PYTESTS) --ignore tests/deploy $(PYTEST) $(OR_NONE)

# Branches that the tests take and leave. What runs in processes that a test starts is not counted.
coverage: $(VENV)/.installed-dev
	$(PYTESTS) --cov --cov-report=term $(PYTEST)

# The quick tests with the lowest version of each direct dependency that pyproject.toml admits, torch apart.
test-lowest:
	PYTHON=$(PYTHON) scripts/test_lowest.sh $(PYTEST)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The site, into site/: a warning is an error, and nothing is fetched from elsewhere.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A source archive and a wheel, in dist/.
dist: $(VENV)/.installed-dev
	rm -rf build dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build

wheel-check: dist
	PYTHON=$(PYTHON) scripts/try_wheel.sh dist/*.whl

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(BENCH)

soak: $(VENV)/.installed
	$(BIN)/python scripts/soak.py $(SOAK)

# Any value in any field, file and flag: FUZZ examples a test, others at every run, and how many there were in all.
FUZZ ?= 2000
fuzz: $(VENV)/.installed-dev
	PRUNETUNE_FUZZ=$(FUZZ) $(BIN)/pytest -k 'fuzz or any_damage' --timeout 0

# Known security advisories against the pinned versions. AUDIT=--if-reachable: not a failure where nobody can be asked.
audit-dependencies: $(VENV)/.installed-dev
	$(BIN)/pip check
	$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit || true
	PATH="$(VENV)/audit/bin:$$PATH" $(BIN)/python scripts/audit_dependencies.py $(AUDIT)

# Only what is imported is compiled, when it is: most of what the extras bring never is.
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prunetune needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site src/*.egg-info
