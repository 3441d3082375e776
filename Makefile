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

test: tools venv images lint types  ## Everything: linters, types, imports, unit to end-to-end tests
	$(AS_ROOT) $(BIN)/pytest $(IN_PARALLEL) $(PYTEST)

bench: host venv images  ## Ratios to Docker, OpenSSH, Flask and ruamel alone, within one run
	$(AS_ROOT) $(BIN)/python -m tests.bench

soak: host venv images  ## A storm of kills and faults over a gateway; MINUTES=20 SEED=7
	$(AS_ROOT) $(BIN)/python -m tests.soak.storm --minutes $(or $(MINUTES),20) --seed $(or $(SEED),0)

lint: venv  ## ruff, and which package may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: venv  ## mypy, strict
	@$(BIN)/mypy

host:
	@docker/install-host

tools:
	@docker/install-host tests

images:
	@docker/build-images gpu-workspace egress-proxy

venv: .venv/stamp  ## The virtual environment

.venv/stamp: setup.cfg pyproject.toml
	@docker/make-venv

.PHONY: help up down check test bench soak lint types host tools images venv
