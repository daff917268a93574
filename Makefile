# Two commands from a fresh clone: `make run` for a running PBX, `make test` for every test.
# Nothing is done again that has not changed: stamps in .venv remember. ARGS=... goes on to the command that is run.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install run demo drill lab bench bench-ha soak install-prod test check sim docs dashboard golden pins clean

bin := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Runs a command whose output matters only if it fails.
quietly = echo "$(1)"; $(1) >.venv/check.log 2>&1 || { cat .venv/check.log; exit 1; }

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 16

install: .venv/base-is-installed ## the virtual environment .venv with Warden in it

run: install ## a running PBX: settings in config.yml if it is there, files in ./data
	@exec $(bin)/warden serve --starter $(ARGS)

demo: install ## three nodes on this machine, killed and moved under calls (ARGS=--json for programs)
	@exec $(bin)/warden demo $(ARGS)

drill: install ## the promises, proved one by one (ARGS='kill --calls 500' for one, ARGS=--short for seconds)
	@exec $(bin)/warden drill run $(ARGS)

lab: install ## as root: a whole cluster on this machine, with the real programs (ARGS="--option active-passive")
	@$(bin)/warden lab up $(ARGS)

bench: install ## calls, registrations and memory beside other servers, measured here (ARGS=--short to try it)
	@scripts/debian-packages.sh
	@command -v rtpengine >/dev/null || scripts/debian-packages.sh rtpengine-daemon
	@PYTHONPATH=src $(bin)/python bench/compare.py $(ARGS)
	@[ -n "$(ARGS)" ] || $(bin)/python bench/page.py

bench-ha: install ## what an adoption and what protection cost, measured here
	@PYTHONPATH=src $(bin)/python bench/adoption.py
	@PYTHONPATH=src $(bin)/python bench/protection.py

soak: install ## half an hour of calls at 70 % of a core, in which nothing fails or grows (MINUTES=30)
	@scripts/debian-packages.sh
	@PYTHONPATH=src $(bin)/python bench/soak.py --minutes $(or $(MINUTES),30) $(ARGS)

install-prod: ## as root: this version below /opt/PBX, beside others, with its user and unit (PREFIX=, DESTDIR=)
	@scripts/install-prod.sh

test: check ## all checks and all tests (ARGS='-k name' for some)
	@scripts/debian-packages.sh
	@scripts/browser-phone.sh
	@$(bin)/pytest -n 3 --dist worksteal -m "not alone" $(ARGS)
	@$(bin)/pytest -m alone $(ARGS) || [ $$? -eq 5 ]

check: .venv/test-is-installed ## style, types, layers, dependencies
	@$(call quietly,$(bin)/ruff check .)
	@$(call quietly,$(bin)/ruff format --check .)
	@$(call quietly,$(bin)/mypy)
	@$(call quietly,$(bin)/lint-imports)
	@$(call quietly,$(bin)/deptry src)

sim: install ## a cluster in virtual time under SEEDS=10000 sets of faults, on all cores
	@$(bin)/python -m warden.sim --seeds $(or $(SEEDS),10000) $(ARGS)

docs: install ## the pages that are written from the source
	@$(bin)/python -m warden.config.document >docs/configuration.md

dashboard: install ## grafana/dashboards/pbx-ha-overview.json from grafana/make_dashboard.py
	@$(bin)/python grafana/make_dashboard.py

golden: .venv/test-is-installed ## one store record per state, and the files of a cluster, as this version writes them
	@$(bin)/python -m tests.unit.golden.records
	@$(bin)/python tests/unit/ops/ha/ha_clusters.py

pins: install ## requirements/*.txt from pyproject.toml and requirements/*.in
	@scripts/make-pins.sh $(ARGS)

clean: ## everything that make has made; ./data stays
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache tests/interop/browser/node_modules
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/is-made: scripts/make-venv.sh
	@scripts/make-venv.sh
	@touch $@

.venv/base-is-installed: .venv/is-made requirements/base.txt pyproject.toml src/warden/__init__.py
	@echo "installing Warden into .venv"
	@$(bin)/pip install --quiet --requirement requirements/base.txt
	@$(bin)/pip install --quiet --no-deps --editable .
	@touch $@

.venv/test-is-installed: .venv/base-is-installed requirements/test.txt
	@echo "installing what the tests need into .venv"
	@$(bin)/pip install --quiet --requirement requirements/test.txt
	@touch $@
