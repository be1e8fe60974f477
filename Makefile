# `make` alone lists what there is. Every target sets up .venv first, and that returns at once when nothing has changed.
VENV ?= .venv
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
export VENV
# Small models on few cores: one thread each beats many that wait for one another.
TEST_ENV = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
BIN = $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo laptop test check nightly constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## make .venv with everything in it (Python 3.11-3.13; the CPU build of torch where there is no NVIDIA GPU)
	@scripts/setup.sh

demo: setup ## watch a trained policy foresee and act: scores, a film and a report in outputs/demo
	$(BIN)/foreact demo

laptop: setup ## from nothing to a policy that does the eight fixture tasks: collect, train, judge
	$(BIN)/foreact study run laptop --results outputs/laptop --workers $(WORKERS)
	$(BIN)/foreact study table laptop --results outputs/laptop

test: setup ## run the fast tests
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=15

check: setup ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

nightly: setup ## run everything that takes long: all tests, kills and bit flips, 200 starts per expert, benchmarks
	$(TEST_ENV) $(BIN)/python -m pytest --slow -n $(WORKERS) --dist loadfile --durations=30 -o timeout=7200 -o faulthandler_timeout=0
	$(BIN)/foreact data selftest kills --kills 1000
	$(BIN)/foreact data selftest flips --flips 3000 --mutations 500
	$(BIN)/foreact data selftest conversions --kills 50
	$(BIN)/foreact data selftest readers --seconds 600
	$(BIN)/foreact data selftest record --episodes 5
	$(BIN)/foreact sim experts --scene all --starts 200 --workers $(WORKERS)
	$(BIN)/foreact evaluate actor=expert benchmark=calvin_chains videos_per_task=0 workers=$(WORKERS)
	$(BIN)/foreact robot selftest soak --minutes 60
	$(BIN)/foreact robot demo --tries 3
	$(BIN)/foreact bench sim
	$(BIN)/foreact bench gate

constraints: ## write the versions installed in .venv to constraints.txt
	$(BIN)/python scripts/freeze.py > constraints.tmp && mv constraints.tmp constraints.txt

clean: ## remove .venv and caches (never data/ or outputs/)
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
