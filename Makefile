# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
PY := .venv/bin/python
SOURCES := pyproject.toml setup.py $(wildcard csrc/* fastnn/kernels/*.p*)

# FORM= follows the reports' recipes as they are written, FORM=--full adds more
FORM ?= --quick

.PHONY: demo reports test test-release lint docs bench build clean

demo: .venv/demo
	$(PY) examples/demo.py

reports: .venv/demo
	for x in a b c d e; do $(PY) examples/report_$$x.py $(FORM) --out out/reports || exit 1; done
	$(PY) examples/reports.py out/reports docs

test: .venv/test
	$(PY) -m pytest
	FASTNN_ISA=scalar $(PY) -m pytest tests/test_plan.py tests/test_fusion.py tests/test_trainer.py \
		tests/test_model.py tests/test_samples.py -k "not reference"

# what a release is tested with, on every instruction set that the CPU has: many hours
test-release: .venv/test
	for isa in $$($(PY) -c "from fastnn import kernels; print(*kernels.available_isas())"); do \
		FASTNN_ISA=$$isa FASTNN_EXAMPLES=2000 FASTNN_GRADIENTS=20 FASTNN_INTERRUPTS=500 \
		FASTNN_FORKS=300 FASTNN_HUGE=1 FASTNN_VALGRIND=1 FASTNN_FUZZ=1000000 FASTNN_KILLS=1000 \
		FASTNN_RESUMES=200 $(PY) -m pytest || exit 1; \
	done
	$(PY) -m bench.interrupts --tries 500

lint: .venv/test
	$(PY) -m ruff check .
	$(PY) -m mypy

# writes what the examples in the docs print, and docs/api.md, anew
docs: .venv/test
	$(PY) tests/test_docs.py

bench: .venv/bench
	$(PY) -m pytest bench/bench_kernels.py --benchmark-enable
	$(PY) -m bench.import_time
	$(PY) -m bench.roofline
	$(PY) -m bench.gemm
	$(PY) -m bench.conv
	$(PY) -m bench.train_step
	$(PY) -m bench.peers
	$(PY) -m bench.interrupts

build: .venv/test

.venv/tools:
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip "setuptools>=77" "cython>=3.1" "numpy>=2.0"
	touch $@

# one stamp per set of extras; without build isolation, so that only what changed is built again
.venv/demo: EXTRAS = plot,sklearn
.venv/test: EXTRAS = plot,sklearn,test
.venv/bench: EXTRAS = plot,sklearn,test,bench
.venv/demo .venv/test .venv/bench: .venv/tools $(SOURCES)
	$(PY) -m pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info fastnn/kernels/*.so
