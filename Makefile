PYTHON ?= python3
BIN := .venv/bin
# The suites drive real Docker, iptables and other users' files.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CI,SSHPIPERD,SSHPIPER_YAML)

# One process for each core; the tests of a module stay together, for they share what is costly to start.
IN_PARALLEL := --numprocesses auto --dist loadscope

help:  ## This list
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 8

up: host venv  ## A working gateway on this machine: install, build, start, open a first session
	@docker/up

down:  ## Take all of it away but workspaces and database
	@docker/down

check: lint types  ## Linters, types, unit and API tests; needs neither root nor Docker
	$(BIN)/pytest $(IN_PARALLEL) tests/unit tests/api $(PYTEST)

test: tools images lint types  ## Everything: linters, types, imports, unit to end-to-end tests
	$(AS_ROOT) $(BIN)/pytest $(IN_PARALLEL) $(PYTEST)

bench: host .venv/stamp-tests images  ## Ratios to Docker, OpenSSH, Flask and ruamel alone, within one run
	$(AS_ROOT) $(BIN)/python -m tests.bench

soak: host .venv/stamp-tests images  ## A storm of kills and faults over a gateway; MINUTES=20 SEED=7
	$(AS_ROOT) $(BIN)/python -m tests.soak.storm --minutes $(or $(MINUTES),20) --seed $(or $(SEED),0)

lint: .venv/stamp-tests  ## ruff, which package may import which, and known vulnerabilities of dependencies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.audit

types: .venv/stamp-tests  ## mypy, strict
	@$(BIN)/mypy

host:
	@docker/install-host

tools:
	@docker/install-host tests

images:
	@docker/build-images gpu-workspace egress-proxy

venv: .venv/stamp  ## The virtual environment, without the test tools

.venv/stamp: setup.cfg pyproject.toml requirements.txt
	@docker/make-venv

.venv/stamp-tests: setup.cfg pyproject.toml requirements-test.txt
	@docker/make-venv tests

lock: .venv/stamp-tests  ## The lock files from setup.cfg; UPGRADE=--upgrade for the newest versions
	@docker/lock $(UPGRADE)

.PHONY: help up down check test bench soak lint types host tools images venv lock
