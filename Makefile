# One entry point for each habit. Works with GNU make 3.81 and later.

VENV := .venv
PY := $(VENV)/bin/python
# The newest Python that will do, unless PYTHON says which.
PYTHON ?= $(shell for v in 14 13 12 11; do command -v python3.$$v >/dev/null 2>&1 && \
	python3.$$v -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && \
	echo python3.$$v && exit; done; echo python3)

.PHONY: demo test check proto bench bench-full docs pictures wheel test-wheel clean

demo: $(VENV)/demo
	$(PY) -m deadheat.cli demo

test: $(VENV)/dev
	$(PY) -m pytest $(ARGS)

check: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) tools/make_stubs.py --check
	cd proto && ../$(VENV)/bin/buf lint
	$(PY) tools/make_docs.py --check

proto: $(VENV)/dev
	$(PY) tools/make_stubs.py

# Others to be compared with are installed only for these two. At most ten minutes.
bench: $(VENV)/bench
	$(PY) -m benchmarks $(ARGS)

# At most ninety minutes; goes on where it was interrupted, and writes docs/performance.md.
bench-full: $(VENV)/bench
	$(PY) -m benchmarks.full $(ARGS)

docs: $(VENV)/dev
	$(PY) tools/make_docs.py

# Apart from docs, whose freshness is checked: another version of matplotlib draws other bytes.
pictures: $(VENV)/dev
	$(PY) tools/draw_planner.py

wheel: $(VENV)/dev
	rm -rf dist
	$(PY) -m hatchling build -t wheel

# The same tests, or those that TESTS names, against the built wheel, in an environment that has
# nothing else of ours.
test-wheel: wheel
	rm -rf $(VENV)/wheel
	$(PYTHON) -m venv $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install --quiet "$$(ls dist/*.whl)[dev]"
	$(VENV)/wheel/bin/python -m pytest $(or $(TESTS),tests) $(ARGS)

clean:
	rm -rf $(VENV) dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "deadheat needs Python 3.11 or later; $(PYTHON) is older. Set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "$(PYTHON) has no venv: install the package\
	 $$($(PYTHON) -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')" \
		"(Debian, Ubuntu) or its like" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip

$(VENV)/demo: $(VENV)/bin/python pyproject.toml
	$(PY) -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/bench: $(VENV)/dev pyproject.toml
	$(PY) -m pip install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml
	$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/demo
