# Needs Python 3.11+ and make. `make demo` makes a talking video, `make app` opens the demo page, `make test` runs every test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

PORTRAIT ?= examples/media/portrait_woman.jpg
SPEECH ?= examples/media/speech_hello.wav
OUTPUT ?= outputs/demo.mp4

.PHONY: demo app test test-matrix fuzz lock clean

# The last line printed is the path of the video.
demo: $(VENV)/.installed
	@mkdir -p $(dir $(OUTPUT))
	@$(BIN)/temposync generate --image $(PORTRAIT) --audio $(SPEECH) --output $(OUTPUT)

app: $(VENV)/.installed
	$(BIN)/python app.py

# A file of tests stays in one process, as what its tests share is made once; tests/conftest.py puts those that take long first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# All with torch, and those that make frames of videos with the other runtimes, too; none of them can be left out (tests/conftest.py).
test: $(VENV)/.installed-dev
	$(PYTEST)
	$(PYTEST) --runtime openvino
	$(PYTEST) --runtime onnxruntime

# The wheel on every Python from 3.11 up, with the newest and the oldest libraries. MATRIX=--quick leaves out gigabytes of torch.
test-matrix: $(VENV)/.installed-dev
	$(BIN)/python tests/matrix.py $(MATRIX)

# Damaged files of every kind until FUZZ says stop; inputs that do harm are kept in outputs/fuzz.
FUZZ ?= --seconds 900
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz $(FUZZ)

# torch first, alone: whatever is installed later then keeps the build chosen here. Every other file must have a hash of the lock.
$(VENV)/.installed: requirements.txt requirements.lock pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' requirements.txt)"
	$(PIP) --no-deps --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

# Hashes of the versions in requirements.txt; torch, of which there are builds for many machines, is pinned only.
lock: $(VENV)/.installed-dev
	$(BIN)/uv pip compile requirements.txt --no-deps --no-emit-package torch --generate-hashes --no-annotate --no-header --quiet -o requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info
