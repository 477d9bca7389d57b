# make demo   pictures in out/        make test   lint, types and tests
# Both set up .venv first. SOURCES=FOLDER, N=COUNT, AUTOENCODER=NAME[:PATH] and PYTHON=python3 may be given.

SOURCES ?= examples/portraits
N ?= 16
AUTOENCODER ?= embedded
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,diffusers

.PHONY: demo test venv clean

demo: $(VENV)/.installed
	$(BIN)/latentpatch generate $(SOURCES) -n $(N) --autoencoder $(AUTOENCODER) -o out
	@echo "pictures: out/grid.png, where they come from: out/provenance.png"

test: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

venv: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	# The modules used of it need neither torchvision nor Lightning, which its metadata asks for.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps taming-transformers
	touch $@

clean:
	rm -rf $(VENV) out build dist *.egg-info
