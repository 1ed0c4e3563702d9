# Each target sets up what it needs (a virtual environment in .venv) and then does its job.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export NO_ALBUMENTATIONS_UPDATE := 1

# One thread of arithmetic a process, and a process a core: what tests compute is small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

.PHONY: demo view test test-engines check format constraints clean

demo: $(READY)  ## nuclei on a real H&E slide region, with the model that ships
	$(BIN)/python run_infer.py input=samples/CMU-1-Small-Region.svs output=outputs/demo outputs=[picture,qupath,json,store] overwrite=true

view: demo  ## look at the demo's nuclei in the browser, until Ctrl-C
	$(BIN)/python -m run_utils.viewer samples/CMU-1-Small-Region.svs outputs/demo/store/CMU-1-Small-Region.db --open

test: $(READY) check  ## everything that needs nothing but .venv
	$(PYTEST)

test-engines: $(READY)  ## what needs a server in an environment of its own (.engines), which it builds
	$(BIN)/python -m pytest -m triton

check: $(READY)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --python $(BIN)/python -r pyproject.toml --extra dev --extra wsi -c constraints.txt
	touch $(READY)

constraints: $(READY)  ## write exact versions anew from the ranges in pyproject.toml
	$(BIN)/uv pip compile --quiet --no-annotate --no-header --upgrade --extra dev --extra wsi pyproject.toml -o constraints.txt

clean:
	rm -rf .venv .engines outputs
