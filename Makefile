PYTHON ?= python3
BIN := .venv/bin
TORCH ?=  # "cpu": without CUDA

.PHONY: book build live test unit format bench colab newest lock fork environment clean

book: environment  ## build the book and serve it
	@$(BIN)/python scripts/build.py --serve

build: environment  ## build the book into _build/html
	@$(BIN)/python scripts/build.py

live:  ## fetch Python for the pages, so that proofs run there
	@$(PYTHON) scripts/live.py

test: environment  ## everything that must hold
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(BIN)/python scripts/build.py --strict
	$(BIN)/pytest -n auto --dist loadgroup

unit: environment  ## the tests that need no built book
	$(BIN)/pytest -n auto --dist loadgroup -m "not book" --ignore tests/test_build.py

format: environment
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/nbstripout --keep-id book/*.ipynb

bench: environment
	$(BIN)/python benchmarks/tabular.py
	$(BIN)/python benchmarks/cli.py
	$(BIN)/python benchmarks/book.py

colab:  ## run the chapters with Colab's versions
	@$(PYTHON) scripts/colab.py

newest: environment  ## try the newest version of everything
	$(BIN)/python scripts/newest.py

lock:  ## renew requirements.lock
	@$(PYTHON) scripts/lock.py

fork:  ## write this repository's own address wherever it stands
	@$(PYTHON) scripts/repository.py

environment:
	@$(PYTHON) scripts/environment.py --torch "$(strip $(TORCH))"

clean:
	rm -rf _build _live .venv .venv-*
