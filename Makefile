# Everything a contributor or CI does, one target each. `make` alone lists them.
VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install system demo test sweep check format bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: system $(STAMP) ## system packages, and .venv with .venv/bin/polyarch

system: ## the system packages alone (apt; sudo where not root)
	@scripts/install-system

$(STAMP): pyproject.toml uv.lock scripts/install-python
	@scripts/install-python $(VENV)
	@touch $@

demo: install ## bases, a registry, three builds for two platforms, pushed, inspected and run
	@scripts/demo

test: install ## the tests; PYTEST="tests/oci -x" chooses
	$(BIN)/python -m pytest $(PYTEST)

sweep: install ## kill everything at every step it takes on the file system (an hour or so)
	POLYARCH_SWEEP=1 $(BIN)/python -m pytest -m slow tests/integration/test_crash_points.py \
		tests/integration/test_crash_server.py

check: $(STAMP) ## linters, types, the rooms' import order, sizes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check_sizes.py

format: $(STAMP) ## what `check` would complain about and a tool can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: install ## side by side with the other builders; see bench/README.md
	$(BIN)/python -m bench

docs: $(STAMP) ## docs/cli.md from the command line itself, and the README's picture
	$(BIN)/python scripts/make_docs.py
	$(BIN)/python scripts/make_picture.py

clean: ## everything that can be made again, but for .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests scripts -name __pycache__ -type d -exec rm -rf {} +
