PYTHON ?= python3
BIN := .venv/bin
# The tests use real Docker, iptables and files of other users.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CI,SSHPIPERD,SSHPIPER_YAML,SSHPIPER_KUBERNETES)

# The tests give workspaces to their users. For an ordinary user, fakeroot plays root's part.
AS_IF_ROOT := $(if $(filter 0,$(shell id -u)),,fakeroot)

# One process for each core. The tests of a module run in one process, because they share slow fixtures.
IN_PARALLEL := --numprocesses auto --dist loadscope

# The programs of Kubernetes are in the cache of who built them, also where root runs the tests.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)

help:  ## Print this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 12

up: host venv  ## Install, build and start a gateway on this machine, and open a first session
	@docker/up

down:  ## Remove this gateway, except the workspaces and the database
	@docker/down

check: lint types  ## Run linters, type checks, unit and API tests; needs neither root nor Docker
	$(AS_IF_ROOT) $(BIN)/pytest $(IN_PARALLEL) tests/unit tests/api $(PYTEST)

test: tools images lint types  ## Run linters, type checks, import contract, and all tests but those of test-fleet
	$(AS_ROOT) $(BIN)/pytest $(IN_PARALLEL) --ignore=tests/fleet $(PYTEST)

test-fleet: fleet-tools images .venv/stamp-tests  ## Run the tests on a real Kubernetes; builds it once, 10 to 30 minutes
	@$(BIN)/python -m tests.fleet.programs
	$(AS_ROOT) env XDG_CACHE_HOME=$(CACHE) $(BIN)/pytest tests/fleet $(PYTEST)

cluster: fleet-tools images .venv/stamp-tests  ## Run a throw-away Kubernetes with a gateway in front; Ctrl-C removes it
	@$(BIN)/python -m tests.fleet.programs
	@$(AS_ROOT) env XDG_CACHE_HOME=$(CACHE) $(BIN)/python -m tests.fleet.cluster

systemd: host .venv/stamp-tests images  ## Test units and compose files on a server in a privileged container
	@docker/build-images gateway systemd
	$(AS_ROOT) $(BIN)/pytest tests/systemd $(PYTEST)

sbom: host .venv/stamp-tests  ## Write gpu-ssh-gateway.cdx.json, the bill of materials of the gateway's image
	@docker/build-images gateway
	@$(BIN)/python -m tests.sbom gpu-ssh-gateway.cdx.json

bench: host .venv/stamp-tests images  ## Measure the ratios to Docker, OpenSSH, Flask and ruamel alone, in one run
	$(AS_ROOT) $(BIN)/python -m tests.bench

bench-fleet: fleet-tools images .venv/stamp-tests  ## Measure sessions on a cluster against kubectl; BENCH="--nodes 1000"
	@$(BIN)/python -m tests.fleet.programs
	$(AS_ROOT) env XDG_CACHE_HOME=$(CACHE) $(BIN)/python -m tests.fleet.bench $(BENCH)

soak: host .venv/stamp-tests images  ## Test a gateway under random kills and faults; MINUTES=20 SEED=7
	$(AS_ROOT) $(BIN)/python -m tests.soak.storm --minutes $(or $(MINUTES),20) --seed $(or $(SEED),0)

churn: .venv/stamp-tests  ## Let sessions come and go on fakes, behind a waiting line; CYCLES=10000 LINE=10 SEED=7
	$(AS_IF_ROOT) $(BIN)/python -m tests.soak.churn --cycles $(or $(CYCLES),10000) --line $(or $(LINE),10) \
		--seed $(or $(SEED),0)

lint: .venv/stamp-tests  ## Run ruff, check the import contract, and find known vulnerabilities of dependencies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.audit

types: .venv/stamp-tests  ## Run mypy in strict mode
	@$(BIN)/mypy

host:
	@docker/install-host

tools:
	@docker/install-host tests

fleet-tools:
	@docker/install-host fleet

images:
	@docker/build-images gpu-workspace egress-proxy

words: .venv/stamp-tests  ## Take new sentences into the translations, and compile these
	@docker/words

venv: .venv/stamp  ## Create the virtual environment, without the test tools

.venv/stamp: setup.cfg pyproject.toml requirements.txt
	@docker/make-venv

.venv/stamp-tests: setup.cfg pyproject.toml requirements-test.txt
	@docker/make-venv tests

lock: .venv/stamp-tests  ## Write the lock files from setup.cfg; UPGRADE=--upgrade for the newest versions
	@docker/lock $(UPGRADE)

.PHONY: help up down check test test-fleet cluster systemd sbom bench bench-fleet soak churn lint types host tools fleet-tools images words venv lock
