# make demo   one picture through the shipped weights    make lint   ruff and mypy
# make test   the whole suite                            make docs   the pages into site/, notebooks with their pictures
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Most of 24,000 modules are never imported; those that are, Python compiles then, and on both cores.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt

.PHONY: demo test lint docs clean

# The demo's photo lies in scikit-image's wheel: Eileen Collins, NASA, public domain.
demo: $(VENV)/.installed
	@mkdir -p out/demo
	@$(BIN)/python -c "import skimage.data, skimage.io; skimage.io.imsave('out/demo/astronaut.png', skimage.data.astronaut())"
	@$(BIN)/deid run out/demo/astronaut.png -o out/demo/astronaut_anon.png --seed 3 --overwrite \
		--preview side-by-side --report out/demo/report.json
	@mv out/demo/astronaut_anon_before_after.png out/demo/before_after.png
	@echo "Look at out/demo/before_after.png; the result is out/demo/astronaut_anon.png, its report out/demo/report.json"

# Two processes of one thread: small models lose more to threads than they win.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -p no:cacheprovider -n 2 --dist worksteal

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python -m mypy

# Notebooks are executed here and in no test of the pages: tests/test_notebooks.py runs them anyway.
docs: $(VENV)/.installed-test
	DEID_DOCS_EXECUTE=true NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open site/index.html"

clean:
	rm -rf out/demo build dist site

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'the versions of constraints.txt want Python 3.11 or newer; make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)

# Stamps, so that nothing is installed twice. They are older than their reasons after an edit of these files.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e . scikit-image
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[test,eval]"
	$(PIP) --no-deps random-face  # 38 MB; what it asks for (Jupyter and a hundred more) is not used here
	@touch $(VENV)/.installed $@
