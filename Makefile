# `make demo` and `make test` are all that a fresh machine needs (Python 3.10 or newer, with venv).

PYTHON ?= python3
BIN := .venv/bin

# make demo DATA=<folder> TRAIN=<products> PRODUCT=<product>
DEMO_ARGUMENTS = $(if $(DATA),--data $(DATA)) $(if $(TRAIN),--train $(TRAIN)) \
	$(if $(PRODUCT),--product $(PRODUCT))

.PHONY: install demo engine gpu-evidence test slow-test real-parts experiment peers-install peers-test check \
	onnxruntime c c-test c-full-test c-fuzz bench bench-full format clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/cff-bench demo --out build/demo $(DEMO_ARGUMENTS)

# TensorRT-RTX engines of the demo's bundle, for two GPU architectures; needs no GPU
engine: build/demo/bundle/manifest.json
	$(BIN)/cff-run engine build/demo/bundle --flavour tensorrt-rtx --compute-capability 8.6,8.9
	$(BIN)/cff-run engine build/demo/bundle --flavour tensorrt-rtx --compute-capability 8.6,8.9 --check

# everything that needs a GPU: tests, engines, gate, times; writes a file to commit
gpu-evidence: build/demo/bundle/manifest.json
	$(BIN)/python scripts/gpu_evidence.py

build/demo/bundle/manifest.json: | install
	$(BIN)/cff-bench demo --out build/demo $(DEMO_ARGUMENTS)

# without ONNX Runtime's headers the tests of libcff are skipped, and say so
test: install
	-$(BIN)/python scripts/onnxruntime_for_c.py
	$(BIN)/pytest -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=85

slow-test: install
	$(BIN)/pytest -m slow

# what libcff is built with: ONNX Runtime's headers, and the library of the Python package
onnxruntime: install
	$(BIN)/python scripts/onnxruntime_for_c.py

c: onnxruntime
	cmake -S runtime/c -B build/c -DCFF_BUILD_EXAMPLES=ON
	cmake --build build/c --parallel

# clean builds under gcc and clang, ABI, document, tests; c-full-test adds sanitizers and valgrind
c-test: install
	scripts/c_test

c-full-test: install
	scripts/c_test --full

# ten minutes for each of libcff's entry points; needs clang
c-fuzz: onnxruntime
	scripts/c_fuzz 600

# every report, in build/bench/report.json and report.html; bench-full takes more rounds and adds ViT-L/14
bench: build/demo/bundle/manifest.json
	$(BIN)/cff-bench all --out build/bench

bench-full: build/demo/bundle/manifest.json build/vit-l/manifest.json
	$(BIN)/cff-bench all --full --out build/bench

# ViT-L/14 at 518 px, random weights: for time and memory, its answers mean nothing
build/vit-l/manifest.json: | install
	$(BIN)/cff-bench precision speed --backbone open_clip:ViT-L-14-336 --weights random \
		--image-size 518 --keep build/vit-l

real-parts: install
	$(BIN)/cff-bench real-parts --out build/real-parts

# needs CFF_DATA; an hour on two cores, and goes on where it was stopped
experiment: install
	$(BIN)/cff-bench experiment
	$(BIN)/python scripts/update_tables.py

peers-install: .venv-peers/.installed

# Apart from .venv, because anomalib's opencv-python-headless and open_clip clash with ours.
.venv-peers/.installed: benchmarks/cff_peers/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
		--requirement benchmarks/cff_peers/requirements.txt
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

peers-test: peers-install
	.venv-peers/bin/pytest tests/benchmarks/test_peers_*.py

check:
	scripts/check

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist .venv .venv-peers .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage*
