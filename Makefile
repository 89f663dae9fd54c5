# Everything a person does here. `make` lists it.
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
STACK_PY := $(PY) -m tools.stack
PYTEST := $(PY) -m pytest
COMPOSE := docker compose -f docker/docker-compose.yml
SERVICES := event_core ingestion_service event_consumer analytics_service
# Which stack: compose | local | auto. `make up` is local unless this says otherwise; `make run` decides by itself.
export STACK
# Options of single targets: given on the command line, never taken from the environment.
P =
F =
YES =
EVENTS = 300
USERS = 30
ARGS =
UV_COMPILE := $(PY) -m uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
EXTRAS := ingestion consumer analytics migrate

.PHONY: help setup build venv up dev down logs status restart clean doctor run sales migrate spool dlq kafka offsets rebuild-rollups \
	docker-build docker-run docker-logs docker-stop \
	test test-unit test-integration test-e2e test-compose test-exhaustive test-coverage bench \
	check lint format proto lock schema-docs api-docs

help: ## List the targets
	@echo "make TARGET [STACK=compose|local|auto]"
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing: Python packages, Java, Maven, PostgreSQL, Kafka's and MongoDB's jars
	@tools/setup.sh

build: setup proto ## Install what is missing, and generate the Protobuf module

venv:
	@tools/setup.sh venv

# --- the platform on this machine

run: venv ## Bring the platform up, send 300 events, show that they are counted (EVENTS=, USERS=)
	@$(PY) -m tools.run --events $(EVENTS) --users $(USERS) $(ARGS)

sales: venv ## Send sales to the sales' topic (ARGS=--help: how many, duplicates, bad messages)
	@$(PY) tools/send_sales.py $(ARGS)

up: setup ## Start Kafka, Postgres, MongoDB and the services; wait until they are ready
	@$(STACK_PY) up $(ARGS)

dev: setup ## Start only Kafka, Postgres and MongoDB, for services that you run yourself
	@$(STACK_PY) up --servers-only $(ARGS)

down: venv ## Stop everything; no process is left, the data is kept
	@$(STACK_PY) down

status: venv ## Show each program: state, pid, uptime, ports, ready
	@$(STACK_PY) status $(ARGS)

logs: venv ## Show the ends of the logs (P=consumer: only one; F=1: go on)
	@$(STACK_PY) logs $(P) $(if $(F),--follow) $(ARGS)

restart: venv ## Restart one program, e.g. after a change of its code: P=consumer
	@$(if $(P),$(STACK_PY) restart $(P),echo "Which? make restart P=ingestion" >&2; exit 2)

clean: venv ## Stop everything and delete all data and logs (asks first; YES=1 does not)
	@$(STACK_PY) clean $(if $(YES),--yes)

doctor: venv ## Check programs, versions, ports, disk, memory: what is missing, how to get it
	@$(STACK_PY) doctor

migrate: venv ## Bring the database's schema up to date (`make up` does it too)
	@$(PY) -m tools.migrate

rebuild-rollups: venv ## Make counts and users' days anew from the events; shows what differed (ARGS=--dry-run only compares)
	@$(PY) -m tools.rebuild_rollups $(ARGS)

spool: venv ## Look into the collector's disk buffer (ARGS='list', 'show …' or 'export …'; ARGS=--help)
	@# The buffer of `make up` lies in .local, where nothing else is said.
	@if [ -z "$${BUFFER_DIR+set}" ] && [ -d .local/buffer ] && ! grep -qs '^BUFFER_DIR=' .env; then \
		BUFFER_DIR=.local/buffer; export BUFFER_DIR; fi; \
	$(PY) -m ingestion_service.spool $(ARGS)

dlq: venv ## Dead letters: look, mend, send again, give up (ARGS='list', 'show …', 'replay …' or 'discard …'; ARGS=--help)
	@$(PY) -m tools.dlq $(ARGS)

kafka: ## Kafka's own tools, without Docker (ARGS='topics --list', 'consumer-groups …' or 'console-consumer …')
	@tools/kafka.sh $(ARGS)

offsets: venv ## Where the consumer reads on, and deciding it anew (ARGS='show' or 'reset …'; ARGS=--help)
	@$(PY) -m tools.offsets $(ARGS)

# --- the platform in Docker Compose, by itself (`make up STACK=compose` is all of it in one)

docker-build: ## Build the services' images
	@$(COMPOSE) build $(ARGS)

docker-run: ## Start everything in containers; wait until it is healthy
	@$(COMPOSE) up --detach --wait $(ARGS)

docker-logs: ## Show the ends of the containers' logs (P=sales: only one; F=1: go on)
	@$(COMPOSE) logs --tail 100 $(if $(F),--follow) $(ARGS) $(P)

docker-stop: ## Stop the containers; they and the data are kept
	@$(COMPOSE) stop $(ARGS)

# --- tests and checks

test: setup ## Run every test, on real Kafka, Postgres and MongoDB
	@$(PYTEST) $(ARGS)

test-unit: venv ## Run the tests that need no server and no Docker
	@$(PYTEST) tests/unit tests/contract -m "not integration" $(ARGS)

test-integration: setup ## Run the tests of single parts on real Kafka, Postgres and MongoDB
	@$(PYTEST) tests/contract tests/integration tests/migration $(ARGS)

test-e2e: setup ## Run the tests of the whole platform, where things are killed
	@$(PYTEST) tests/e2e -m "not compose" $(ARGS)

test-compose: venv ## Run the test of docker/docker-compose.yml
	@$(PYTEST) tests/e2e -m compose $(ARGS)

test-exhaustive: setup ## Run the long form of the fault tests
	@$(PYTEST) -m exhaustive $(ARGS)

test-coverage: setup ## Run every test, and show the lines of the services that none ran in its own process
	@COVERAGE_FILE=.local/coverage $(PYTEST) $(SERVICES:%=--cov=%) --cov-report=term-missing:skip-covered $(ARGS)

bench: setup ## Measure events per second, per CPU-second, and latency beside a naive baseline
	@$(PY) -m tests.benchmarks $(ARGS)

check: lint ## The same as lint: what CI runs before the tests

lint: venv ## Check format, code, types and import rules
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

format: venv ## Format the code, and repair what the linter can
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

proto: venv ## Write the Protobuf module of proto/sales_event.proto anew
	@$(PY) -m grpc_tools.protoc --proto_path=proto --python_out=event_consumer/sales --pyi_out=event_consumer/sales sales_event.proto

schema-docs: setup ## Write docs/schema.md anew from the migrated database of DATABASE_URL
	@$(PY) -m tools.migrate && $(PY) -m tools.migrate.describe

api-docs: venv ## Write docs/api/rest/event-collector.yaml anew from the code (ARGS=--check only compares)
	@$(PY) -m ingestion_service.openapi $(ARGS)

# --- dependencies

lock: venv ## Renew requirements/*.lock from pyproject.toml and superset.in (ARGS=--upgrade for newer versions)
	@$(UV_COMPILE) $(ARGS) --all-extras --group dev pyproject.toml -o requirements/dev.lock
	@for extra in $(EXTRAS); do \
		$(UV_COMPILE) --extra $$extra $$([ $$extra = analytics ] && echo --extra parquet) -c requirements/dev.lock pyproject.toml -o requirements/$$extra.lock || exit 1; \
	done
	@$(UV_COMPILE) $(ARGS) requirements/superset.in -o requirements/superset.lock
	@if grep -l '://' requirements/*.lock; then echo "These locks name a host; they must not." >&2; exit 1; fi
