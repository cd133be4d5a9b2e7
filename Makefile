# make demo   environment, install, train the small model, its spectrum, a picture
# make test   lint and tests
# make test-oldest  the tests with the oldest packages that setup.py allows, in an environment of
#             their own; OLDEST_TESTS="tests/slq ..." for some of them
# make verify the small model against its exact spectrum (minutes)
# make figures the paper's figures, and a page about them (CIFAR-10: see docs/reproduction.md)
# make bench  what a product and a density cost
# make bench-peers  the same density runs by PyTorch packages and by JAX, and Gauss-Newton products by
#             the former, in environments of their own (more than an hour)
# make chaos  a run whose processes are killed at random (minutes)
# make slow   tests that take long, with KerasHub, and a minute of damaged files at random;
#             SLOW=hours: the largest architectures
# make docs   the site of the documentation, in site/, with its notebooks run (minutes)
# make coverage  which layers, losses and operations of Keras have a right product (minutes)

VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 2

FIGURES ?= runs/figures
REPRODUCE_FLAGS ?=

# The marks of the tests that `make slow` runs.
SLOW ?= slow

# Of the packages that this one is compared with: those that need PyTorch, and JAX.
VENV_PEERS ?= .venv-peers
VENV_PEERS_JAX ?= .venv-peers-jax
PEERS_FLAGS ?=
PEERS_PINS = benchmarks/peers/requirements-torch.txt benchmarks/peers/requirements.txt

# The oldest Python, if it can be found.
VENV_OLDEST ?= .venv-oldest
OLDEST_PYTHON ?= $(shell for p in python3.10 $$HOME/.pyenv/versions/3.10.*/bin/python $(PYTHON); do \
  $$p -V > /dev/null 2>&1 && echo $$p && break; done)
OLDEST_TESTS ?=

.PHONY: demo test test-oldest lint verify figures bench bench-peers chaos slow coverage docs clean

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/installed
	$(RUN) -m tf_hessian.bin.train --config=configs/mnist_mlp.py --workdir=runs/mnist_mlp
	$(RUN) -m tf_hessian.bin.spectrum --config=configs/mnist_mlp.py --workdir=runs/mnist_mlp

# Two processes, as most of a test is tracing, which one core does; a file's tests stay together,
# since they share what is expensive.
test: lint
	$(RUN) -m pytest -n 2 --dist loadfile

$(VENV_OLDEST)/installed: setup.py .ci/oldest.py
	$(OLDEST_PYTHON) -m venv $(VENV_OLDEST)
	$(VENV_OLDEST)/bin/python -m pip install --quiet --upgrade pip setuptools
	$(VENV_OLDEST)/bin/python .ci/oldest.py > $(VENV_OLDEST)/requirements.txt
	$(VENV_OLDEST)/bin/python -m pip install --quiet -r $(VENV_OLDEST)/requirements.txt
	$(VENV_OLDEST)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

test-oldest: $(VENV_OLDEST)/installed
	$(VENV_OLDEST)/bin/python -c "import keras, sys, tensorflow as tf; \
	  print(f'Python {sys.version.split()[0]}, TensorFlow {tf.__version__}, Keras {keras.__version__}')"
	$(VENV_OLDEST)/bin/python -m pytest -n 2 --dist loadfile $(OLDEST_TESTS)

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

verify: $(VENV)/installed
	$(RUN) -m tf_hessian.bin.verify --config=configs/mnist_mlp.py --workdir=runs/verify

figures: $(VENV)/installed
	$(RUN) -m tf_hessian.bin.reproduce --figure=all --out=$(FIGURES) $(REPRODUCE_FLAGS)

bench: $(VENV)/installed
	$(RUN) -m benchmarks.costs --write=docs/benchmarks.md
	$(RUN) -m benchmarks.products
	$(RUN) -m benchmarks.lanczos --kinds=
	$(RUN) -m benchmarks.plan
	$(RUN) -m benchmarks.kernels
	$(RUN) -m benchmarks.matrices

$(VENV_PEERS)/installed: $(PEERS_PINS)
	$(PYTHON) -m venv $(VENV_PEERS)
	$(VENV_PEERS)/bin/python -m pip install --quiet -r benchmarks/peers/requirements-torch.txt
	$(VENV_PEERS)/bin/python -m pip install --quiet --no-deps -r benchmarks/peers/requirements.txt
	touch $@

$(VENV_PEERS_JAX)/installed: benchmarks/peers/requirements-jax.txt
	$(PYTHON) -m venv $(VENV_PEERS_JAX)
	$(VENV_PEERS_JAX)/bin/python -m pip install --quiet -r benchmarks/peers/requirements-jax.txt
	touch $@

bench-peers: $(VENV)/installed $(VENV_PEERS)/installed $(VENV_PEERS_JAX)/installed
	$(RUN) -m benchmarks.peers --peers_python=$(VENV_PEERS)/bin/python \
	  --jax_python=$(VENV_PEERS_JAX)/bin/python $(PEERS_FLAGS)

chaos: $(VENV)/installed
	$(RUN) -m benchmarks.chaos

$(VENV)/installed-slow: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable '.[test,slow]'
	touch $@

slow: $(VENV)/installed-slow
	$(RUN) -m pytest -m $(SLOW)
	$(RUN) -m benchmarks.faults

coverage: $(VENV)/installed
	$(RUN) -m benchmarks.coverage --write=docs/coverage.md

$(VENV)/installed-docs: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable '.[test,slow,docs]'
	touch $@

# The variable silences the theme's word of its successor. With --quiet, --strict would see no warnings.
docs: $(VENV)/installed-docs
	$(RUN) docs/tools/notebooks.py build/notebooks
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	$(RUN) docs/tools/check.py site

clean:
	rm -rf $(VENV) $(VENV_OLDEST) $(VENV_PEERS) $(VENV_PEERS_JAX) build *.egg-info runs site
