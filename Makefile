# Two commands do it all: make demo, make test. Both build .venv first, from the pins in requirements.txt. `make docs` builds the site.
PYTHON ?= python3
BIN := .venv/bin
RUN_ROOT ?= runs/demo
CHECK = $(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and f'the pinned environment needs Python 3.11 or 3.12, this is {v[0]}.{v[1]}; say make PYTHON=python3.11')"

.PHONY: env demo test lint lab docs readme notebooks base-weights clean

env: .venv/ready

.venv/ready: requirements.txt setup.py settings.ini
	$(CHECK)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch .venv/ready

demo: env
	$(BIN)/yolov10-qat demo --run-root $(RUN_ROOT)

test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 --numprocesses 2 --dist worksteal tests

# ruff on notebooks and tests; types of the rooms that others build on
lint: env
	$(BIN)/ruff check
	$(BIN)/pyrefly check

lab: env
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/index.ipynb

# The site, in an environment of its own without PyTorch; a warning is an error. Nothing is executed.
.venv-docs/ready: requirements-docs.txt
	$(CHECK)
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch .venv-docs/ready

docs: .venv-docs/ready
	rm -rf _docs
	.venv-docs/bin/sphinx-build -q -W --keep-going -c docs . _docs
	@echo "the site: $(CURDIR)/_docs/index.html"

readme: env
	$(BIN)/python tests/render_readme.py

# After editing a notebook: write the package, strip what does not belong in version control.
notebooks: env
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_export
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_clean
	$(BIN)/python tests/render_template.py
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_clean --fname yolov10_qat/templates/run.ipynb
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_clean --fname yolov10_qat/templates/compare.ipynb
	$(BIN)/python -c "from yolov10_qat.runs.summary import schema_text; print(schema_text(), end='')" > yolov10_qat/schemas/run_summary.schema.json
	$(BIN)/python -c "from yolov10_qat.compare.summary import comparison_schema; print(comparison_schema(), end='')" > yolov10_qat/schemas/comparison.schema.json
	$(BIN)/python -c "from yolov10_qat.compare.sweep_file import sweep_schema; print(sweep_schema(), end='')" > yolov10_qat/schemas/sweep.schema.json

# The weights that ship with the package, trained anew; then copy the file over yolov10_qat/assets/ and its digest into nbs/45_checkpoint/03_base_weights.ipynb.
base-weights: env
	$(BIN)/python -c "from yolov10_qat.pipeline.demo_weights import train_base; from yolov10_qat.core.files import file_sha256; file = train_base('runs/base'); print(file, file_sha256(file))"

clean:
	rm -rf .venv .venv-docs _docs docs/rooms build dist *.egg-info
