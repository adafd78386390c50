# make demo   the whole way once: data, training, publishing, serving, asking, load
# make serve  the demo's server alone, on ports 8500 (gRPC) and 8501 (REST), until Ctrl-C
# make test   the whole test suite
# make lint   formatting, rules and types
# make bench  what is said of speed, measured anew: ratios, each taken in one run
# make stack  the containers, in a real Docker Engine
# make lock   resolve the dependencies anew

PYTHON ?= python3
VENV := .venv
ROOMS := trainer serving client loadtest
BIN := $(VENV)/bin

.PHONY: demo serve test bench lint format stack lock setup clean
.DELETE_ON_ERROR:

demo: setup
	@exec $(BIN)/python demo.py

serve: setup
	@exec $(BIN)/glyph-serve --address=127.0.0.1 --port="$${GRPC_PORT:-8500}" --rest_api_port="$${REST_PORT:-8501}" \
		--model_name=digits --model_base_path="$(CURDIR)/build/models/digits" \
		--enable_batching --batching_parameters_file=serving/config/batching.config

# Two processes, because much of a test is waiting; what measures time has the machine to itself afterwards.
test: setup
	$(BIN)/python -m pytest -m "not alone" --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m alone $(PYTEST_ARGS) $$(grep -rl mark.alone --include='test_*.py' tests)

bench: setup
	@status=0; for bench in tests/benchmarks/*_bench.py; do $(BIN)/python $$bench || status=1; done; exit $$status

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(ROOMS:%=-p glyph_%)
	$(BIN)/mypy demo.py tests

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stack: setup
	bash tests/stack/run

setup: $(VENV)/.installed

# The stamp is written last: an interrupted installation is done again. Modules are compiled when they are imported first:
# most of TensorFlow's never are.
$(VENV)/.installed: requirements.lock $(ROOMS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("Glyph needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.11" % v)'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@echo "Setting up $(VENV) (once; TensorFlow is a large download)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --progress-bar on --require-hashes -r requirements.lock
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-index --no-build-isolation $(ROOMS:%=-e ./%)
	@touch $@

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock: setup
	$(LOCK) requirements.in $(ROOMS:%=%/pyproject.toml) -o requirements.lock
	@for room in $(ROOMS); do echo hatchling | $(LOCK) $$room/pyproject.toml - -c requirements.lock -o $$room/requirements.lock; done

clean:
	rm -rf build
