PYTHON ?= python3
# onedl, the maintained builds of the OpenMMLab libraries, or openmmlab, its own releases.
STACK ?= onedl
mminstall := $(if $(filter openmmlab,$(STACK)),mminstall-openmmlab,mminstall)
VENV := $(if $(filter openmmlab,$(STACK)),.venv-openmmlab,.venv)
python := $(VENV)/bin/python

# The environment is complete when the stamp of what it was installed from is
# there. A change of these files, or a checkout that was moved, makes another key.
sources := setup.py $(addprefix requirements/,$(addsuffix .txt,build $(mminstall) runtime tests))
stamp := $(VENV)/.installed-$(shell (pwd; cat $(sources)) | cksum | cut -d' ' -f1)

ifeq ($(filter $(STACK),onedl openmmlab),)
$(error STACK=$(STACK): give onedl or openmmlab)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test lint clean

help:
	@echo 'make demo     train and compare five small models (CPU, minutes); results in work_dirs/probe'
	@echo 'make test     ruff, mypy and the test suite'
	@echo 'make lint     ruff and mypy alone'
	@echo 'make install  the environment alone, in $(VENV); the other targets do it when needed'
	@echo 'make clean    remove $(VENV), builds and caches; work_dirs stays'
	@echo 'STACK=openmmlab with any of them: on the releases of OpenMMLab, in .venv-openmmlab'
	@echo 'Python 3.10 or later is needed: make PYTHON=/path/to/python3.11 TARGET'

install: $(stamp)

$(stamp):
	@bash .dev_scripts/install.sh '$(PYTHON)' $(VENV) requirements/$(mminstall).txt
	@rm -f $(VENV)/.installed-* && touch $@

demo: $(stamp)
	$(python) tools/probe.py demo

# A process a core, of one thread each: most tests are too small to share among threads.
test: lint
	OMP_NUM_THREADS=1 $(python) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: $(stamp)
	$(python) -m ruff check .
	$(python) -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
