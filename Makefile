# Needs Python 3.11+ and make. `make demo` makes a talking video, `make app` opens the demo page, `make test` runs every test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

PORTRAIT ?= examples/media/portrait_woman.jpg
SPEECH ?= examples/media/speech_hello.wav
OUTPUT ?= outputs/demo.mp4

.PHONY: demo app test clean

# The last line printed is the path of the video.
demo: $(VENV)/.installed
	@mkdir -p $(dir $(OUTPUT))
	@$(BIN)/temposync generate --image $(PORTRAIT) --audio $(SPEECH) --output $(OUTPUT)

app: $(VENV)/.installed
	$(BIN)/python app.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# torch first, alone: whatever is installed later then keeps the build chosen here.
$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' requirements.txt)"
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
