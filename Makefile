# make demo   pictures in out/        make test   lint, types and tests; make test-all: long tests, too
# make docs   the site in site/       make serve  TorchServe
# All set up .venv first. SOURCES=FOLDER, N=COUNT, AUTOENCODER=NAME[:PATH], HOW=OPTIONS and PYTHON=python3 may be given, to
# serve also CONFIG=config.local.properties (no tokens), to tests JOBS=PROCESSES, of one thread each, to test-all
# SOAK=REQUESTS of TorchServe, 5000 before a release. Only serve needs Java; the tests of it are skipped without.

SOURCES ?= examples/portraits
N ?= 16
AUTOENCODER ?= embedded
# The demo moves and mirrors its sources, which costs a bank fifty times as large: too much for a folder of hundreds.
HOW ?= $(if $(filter examples/portraits,$(SOURCES)),--preset faithful --mirrored --offsets 2)
CONFIG ?= config.properties
PYTHON ?= python3
JOBS ?= auto
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,course,diffusers,docs,filters,serve,http,onnx
ARCHIVE := model_store/latentpatch.mar

# A word of the shell, whatever is in it: folders have spaces.
quoted = '$(subst ','\'',$(1))'

.PHONY: demo test test-all docs serve archive java venv clean FORCE

demo: $(VENV)/.installed
	$(BIN)/latentpatch generate $(call quoted,$(SOURCES)) -n $(N) --autoencoder $(call quoted,$(AUTOENCODER)) $(HOW) -o out
	@echo "pictures: out/grid.png, where they come from: out/provenance.png"

test test-all: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(if $(filter test-all,$@),-m "")

# Warnings, such as a link that leads nowhere, are errors. Material's notice of its successor is left out.
docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html, or: $(BIN)/python -m http.server -d site"

# Until Ctrl-C. TorchServe unpacks archives and keeps its pid and sockets in TEMP and TMPDIR, so they are its own.
serve: archive java
	@tmp=$$(mktemp -d); trap 'kill $$(cat "$$tmp/.model_server.pid")' INT TERM; \
	TEMP=$$tmp TMPDIR=$$tmp OMP_NUM_THREADS=1 $(BIN)/torchserve --start --foreground --ncs --ts-config $(call quoted,$(CONFIG)) & \
	wait $$! || wait $$!; rm -rf "$$tmp"  # a signal ends the first wait, TorchServe the second

# Made again where something that goes into it is newer, or other sources or weights are asked for.
archive: $(VENV)/.serving model_store/.made-of
	@if [ ! -e $(ARCHIVE) ] || [ -n "$$(find latentpatch handlers $(call quoted,$(SOURCES)) model_store/.made-of \
	-name __pycache__ -prune -o -newer $(ARCHIVE) -print -quit)" ]; then \
	$(BIN)/latentpatch archive $(call quoted,$(SOURCES)) --autoencoder $(call quoted,$(AUTOENCODER)) -o $(ARCHIVE); fi

model_store/.made-of: FORCE
	@echo $(call quoted,$(SOURCES) $(AUTOENCODER)) | cmp -s - $@ || echo $(call quoted,$(SOURCES) $(AUTOENCODER)) > $@

java:
	@command -v "$${JAVA_HOME:+$$JAVA_HOME/bin/}java" > /dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -q \
	&& apt-get install -yq --no-install-recommends openjdk-17-jre-headless; } \
	|| { echo "TorchServe needs Java 11 or newer: apt-get install openjdk-17-jre-headless, or brew install openjdk@17;" \
	"JAVA_HOME may point to one" >&2; exit 1; }

venv: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(call quoted,$(PYTHON)) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	# The modules used of it need neither torchvision nor Lightning, which its metadata asks for.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps taming-transformers
	touch $@

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

$(VENV)/.serving: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[serve]'
	touch $@

clean:
	rm -rf $(VENV) $(ARCHIVE) model_store/.made-of key_file.json logs out site build dist *.egg-info
