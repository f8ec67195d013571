# Needs make, git and Python 3.10, 3.11 or 3.12; the rest goes into .venv, which nothing outside this folder sees.
# Another Python: make PYTHON=/path/to/python3.11 book

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help book test fuzz rehearsal bench lab notebooks student instructor slides env lint format pins clean distclean

# Threads that wait do not spin: beside another busy process, spinning slows torch many times over.
export OMP_WAIT_POLICY ?= PASSIVE
BIN := .venv/bin
PRESET ?= book
# The stamp carries what was installed, so neither a new clone's file times nor a moved folder can fool it.
STAMP := .venv/installed-$(shell (echo "$(CURDIR)"; cat pyproject.toml constraints.txt) | cksum | cut -d' ' -f1)

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "  %-15s %s\n", $$1, $$2 }'

book: $(STAMP)  ## execute the chapters that changed and render the book (PRESET=book)
	@$(BIN)/python book/build.py --preset $(PRESET)

test: $(STAMP)  ## run every test, side by side: unit, bad input, doctests, chapters in preset smoke
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

fuzz: $(STAMP)  ## the tests on random inputs, on 10,000 each (some minutes)
	@HYPOTHESIS_PROFILE=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m hypothesis --numprocesses auto

rehearsal: $(STAMP)  ## preset paper with small counts: every ingredient and all four chapters, and a table (20 minutes on two cores)
	@$(BIN)/python -m icm_helpers.rehearsal

bench: $(STAMP)  ## how fast the codecs are, as ratios to plain versions; OFFICIAL=folder of clones: to the authors' code too
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt timm pycocotools
	@env -u OMP_WAIT_POLICY OFFICIAL=$(OFFICIAL) $(BIN)/python -m pytest tests/benchmarks -s

lab: $(STAMP)  ## open the chapters as notebooks in JupyterLab
	@$(BIN)/jupytext-config --settings-file .venv/share/jupyter/lab/settings/overrides.json set-default-viewer markdown myst
	@$(BIN)/jupyter lab book

notebooks: $(STAMP)  ## write the chapters as .ipynb into _build/notebooks, for papermill and other tools
	@$(BIN)/python book/build.py --notebooks

student: $(STAMP)  ## the course's notebooks with stubs in place of solutions, in _build/student and one zip
	@$(BIN)/python -m icm_helpers.editions student _build/student

instructor: $(STAMP)  ## the same with solutions, in _build/instructor
	@$(BIN)/python -m icm_helpers.editions instructor _build/instructor

slides: $(STAMP)  ## a talk from each chapter that make book has executed, in _build/slides
	@$(BIN)/python -m icm_helpers.editions slides _build/slides

env: $(STAMP)  ## make the private environment in .venv
	@echo "environment ready: $(CURDIR)/.venv"

lint: $(STAMP)  ## check style and formatting (the chapters' code is checked by make test)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP)  ## put style and formatting right
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

pins: $(STAMP)  ## bring constraints.txt in line with pyproject.toml (UPGRADE=--upgrade: newest versions)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --group bootstrap \
		--no-annotate --no-emit-index-url --custom-compile-command "make pins" $(UPGRADE) \
		pyproject.toml --output-file constraints.txt

clean:  ## remove the rendered book and its executed chapters
	@rm -rf _build

distclean: clean  ## remove the environment too
	@rm -rf .venv

# Always from scratch: an interrupted installation leaves no stamp, and old pins leave no packages behind.
# uv keeps what it has downloaded, so a second time takes seconds.
$(STAMP):
	@set -e; \
	supported() { "$$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }; \
	for python in $(or $(PYTHON),python3 python3.12 python3.11 python3.10); do \
		if supported "$$python"; then break; fi; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "error: none of '$(or $(PYTHON),python3 python3.12 python3.11 python3.10)' is Python 3.10, 3.11 or 3.12." >&2; \
		echo "       Install one of them, or name it: make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),help)" >&2; \
		exit 1; \
	fi; \
	echo "[1/3] making .venv with $$("$$python" -V)"; \
	"$$python" -m venv --clear .venv || { \
		echo "error: $$python cannot make a virtual environment (on Debian and Ubuntu, install python3-venv)." >&2; exit 1; }; \
	echo "[2/3] installing uv"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv; \
	echo "[3/3] installing the packages of constraints.txt (a first time downloads about 3 GB)"; \
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable '.[book,test,anchors,onnx,sam,yolo]'; \
	touch $@
