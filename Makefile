PYTHON ?= python3
# Where the OpenMMLab libraries come from: onedl, the maintained builds, or openmmlab, the
# original releases.
STACK ?= onedl
# Where torch comes from when not from the default index: the URL of an index, or a folder of
# wheels.
TORCH_INDEX ?=
mminstall := $(if $(filter openmmlab,$(STACK)),mminstall-openmmlab,mminstall)
VENV := $(if $(filter openmmlab,$(STACK)),.venv-openmmlab,.venv)
python := $(VENV)/bin/python

# The environment is complete when the stamp file exists. Its name is a checksum of the files
# that the environment was installed from and of the path of the checkout, so that a change
# of either installs again.
sources := setup.py pyproject.toml $(addprefix requirements/,$(addsuffix .txt,torch build $(mminstall) runtime tools studies explorer export tests))
key := $(shell (pwd; cat $(sources)) | cksum | cut -d' ' -f1)
stamp := $(VENV)/.installed-$(key)
# The demo needs less; what it needs is part of the complete environment.
demo_stamp := $(VENV)/.segmentation-$(key)
explorer_stamp := $(VENV)/.explorer-$(shell cksum requirements/explorer.txt | cut -d' ' -f1)
docs_stamp := $(VENV)/.docs-$(shell cksum requirements/docs.txt | cut -d' ' -f1)

ifeq ($(filter $(STACK),onedl openmmlab),)
$(error STACK=$(STACK) is unknown: give onedl or openmmlab)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo explore test test-slow test-all lint docs dist clean

help:
	@echo 'make demo       train and compare five small models (CPU, minutes); results in'
	@echo '                work_dirs/probe; compiles nothing'
	@echo 'make explore    see in the browser where two models of the demo attend'
	@echo 'make test       make lint and the tests, without the slow ones'
	@echo 'make test-slow  the slow tests: trainings in several processes, killed and resumed'
	@echo 'make test-all   both together'
	@echo 'make lint       ruff, codespell, import-linter, deptry and mypy'
	@echo 'make docs       build the documentation in docs/_build/html and check its links'
	@echo 'make dist       the wheel and the sdist of a release, in dist'
	@echo 'make install    only make the environment, $(VENV); the other targets do so when needed'
	@echo 'make clean      remove $(VENV), builds and caches, but not work_dirs'
	@echo 'STACK=openmmlab with any of these uses the releases of OpenMMLab, in .venv-openmmlab'
	@echo 'TORCH_INDEX=URL or TORCH_INDEX=FOLDER takes torch from another index or a folder of wheels'
	@echo 'Python 3.10 or later is needed; to choose one: make PYTHON=/path/to/python3.11 TARGET'

install: $(stamp)

$(stamp):
	@TORCH_INDEX='$(TORCH_INDEX)' bash .dev_scripts/install.sh '$(PYTHON)' $(VENV) requirements/$(mminstall).txt all
	@rm -f $(VENV)/.installed-* && touch $@

$(demo_stamp):
	@TORCH_INDEX='$(TORCH_INDEX)' bash .dev_scripts/install.sh '$(PYTHON)' $(VENV) requirements/$(mminstall).txt segmentation
	@rm -f $(VENV)/.segmentation-* && touch $@

demo: $(if $(wildcard $(stamp)),,$(demo_stamp))
	$(python) tools/study.py run configs/studies/demo.yml --jobs 2
	$(python) tools/probe.py picture

explore: $(explorer_stamp)
	@test -e work_dirs/probe/gcnl/seed0/iter_600.pth || { echo 'Run make demo first: its models are not there.'; exit 2; }
	$(python) tools/analysis_tools/explore_attention.py --names 'both priors' plain --split val \
		configs/probe/gcnl_probe.py work_dirs/probe/gcnl/seed0/iter_600.pth \
		--compare configs/probe/nl_probe.py work_dirs/probe/nl/seed0/iter_600.pth

$(explorer_stamp): $(if $(wildcard $(stamp)),,$(demo_stamp))
	$(python) -m pip install --quiet -r requirements/explorer.txt
	@rm -f $(VENV)/.explorer-* && touch $@

# One process per core with one thread each: most tests are too small to gain from threads.
pytest := OMP_NUM_THREADS=1 $(python) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test: lint
	$(pytest) -m 'not slow'

test-slow: $(stamp)
	$(pytest) -m slow

# Slow tests often wait, so that both kinds together take less time than one after the other.
test-all: lint
	$(pytest)

lint: $(stamp)
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m codespell_lib
	$(VENV)/bin/lint-imports --no-logo --no-cache
	$(python) -m deptry mmgcnl tools
	$(python) -m mypy

# Warnings, among them links that lead nowhere inside the repository, are errors.
docs: $(docs_stamp)
	$(python) -m sphinx --fail-on-warning --keep-going --builder html \
		--conf-dir docs --doctree-dir docs/_build/doctrees . docs/_build/html
	@echo 'Open docs/_build/html/index.html'

$(docs_stamp): $(stamp)
	$(python) -m pip install --quiet -r requirements/docs.txt
	@rm -f $(VENV)/.docs-* && touch $@

# A wheel that is built from the sdist: what is missing there is missing here.
dist: $(stamp)
	rm -rf dist
	$(python) -m pip install --quiet build twine
	$(python) -m build
	$(python) -m twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
