PYTHON ?= python3
BIN := .venv/bin
# The name changes with what is installed, so that an unchanged environment costs nothing.
READY := .venv/ready-$(shell cat requirements.txt pyproject.toml | cksum | tr ' ' -)

.PHONY: book build test format bench colab fork clean

book: build  ## build the book and serve it
	@echo "The book is at http://127.0.0.1:8000 (Ctrl-C stops it)"
	@$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory _build/html

build: $(READY)
	$(BIN)/jupyter-book build . -W -n --keep-going

test: $(READY)  ## everything that must hold
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/nbstripout --keep-id book/*.ipynb

bench: $(READY)
	$(BIN)/python benchmarks/tabular.py
	$(BIN)/python benchmarks/book.py

colab: $(READY)  ## run the chapters with Colab's versions
	$(BIN)/python scripts/colab.py

fork: $(READY)  ## point every link to this repository's own address
	$(BIN)/python scripts/repository.py

clean:
	rm -rf _build .venv .venv-colab

$(READY):
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	rm -f .venv/ready-*
	touch $@
