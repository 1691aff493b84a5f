# The commands of this project. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/orderflow
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(CACHE)/bin:$(PATH)
CRD := crds/orderpipelines.yaml
CHART_CRD := charts/order-pipeline-operator/crds/orderpipelines.yaml
ALERTS := charts/order-pipeline-operator/files/alerts.yaml

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: lab-up ## Fresh machine → a running pipeline with real orders through it
	@lab/deploy
	@lab/demo

.PHONY: test
test: lint unit lab-up reconcile integration proof-short e2e ## Every tier of tests
	@echo "all tiers passed"

.PHONY: lint
lint: tools ## Formatting, clippy, crate graph, house rules, generated files, alerts, shell scripts
	@lab/tier "lint: format" cargo fmt --all --check
	@lab/tier "lint: clippy" cargo clippy --workspace --all-targets --locked -- -D warnings
	@lab/tier "lint: crate graph and licences" cargo deny --all-features check -A unused-wrapper --hide-inclusion-graph bans licenses sources
	@lab/tier "lint: house rules and generated files" cargo test --quiet --locked -p e2e --test tidy
	@lab/tier "lint: alerts" promtool check rules $(ALERTS)
	@lab/tier "lint: alerts fire and rest" promtool test rules e2e/monitoring/alerts_test.yaml
	@lab/tier "lint: alerts, dashboard and runbook" cargo test --quiet --locked -p e2e --test monitoring
	@lab/tier "lint: shell scripts" shellcheck -x $$(git ls-files lab .ci | xargs grep -lE '^#!.*bash|^# shellcheck shell=bash')

.PHONY: unit
unit: tools ## The pure steps, with property tests
	@lab/tier unit cargo test --locked --workspace --lib --bins
	@lab/tier "unit: the example in docs/sinks.md" cargo test --quiet --locked -p consumer --doc
	@lab/tier "unit: golden events" cargo test --locked -p order-events --test golden

.PHONY: reconcile
reconcile: tools ## The real operator against the cluster's API server and the real broker
	@lab/deploy --backends-only
	@lab/tier reconcile cargo test --locked -p operator --test reconcile

.PHONY: integration
integration: tools ## Order service, relay and consumer against real Kafka and PostgreSQL
	@lab/backends up
	@lab/tier "integration: order service" cargo test --locked -p order-service --test integration
	@lab/tier "integration: consumer" cargo test --locked -p consumer --test integration
	@lab/tier "integration: the order API, fuzzed" lab/fuzz --short

.PHONY: e2e
e2e: tools ## The whole pipeline on the cluster, with faults
	@lab/tier "e2e: the chart" cargo test --quiet --locked -p e2e --test chart
	@lab/deploy
	@lab/tier e2e lab/e2e

.PHONY: proof
proof: tools ## The fault campaign: 200 runs of the order path under faults (RUNS=, FROM=)
	@lab/tier proof lab/proof run --runs $(or $(RUNS),200) --from $(or $(FROM),1)

.PHONY: deliveries
deliveries: tools ## The fault campaign of consumers: 200 runs of each guarantee (RUNS=, FROM=)
	@lab/tier deliveries lab/proof deliveries --runs $(or $(RUNS),200) --from $(or $(FROM),1)

.PHONY: proof-short
proof-short: tools ## A few runs of both fault campaigns, and a kill at every fail point
	@PROOF_PROFILE=dev lab/tier "proof: short" lab/proof run --short
	@lab/tier "proof: deliveries, short" lab/proof deliveries --runs 3

.PHONY: mutants
mutants: tools ## Plants known bugs, one at a time; the fault campaign must catch each
	@lab/tier mutants lab/mutants

.PHONY: fuzz
fuzz: tools ## The order API fuzzed from its own OpenAPI document, some thousands of cases (FUZZ_ARGS="--seed N")
	@lab/backends up
	@lab/fuzz $(FUZZ_ARGS)

.PHONY: bench
bench: tools ## Benchmarks of the order path into docs/benchmarks.md (an hour; BENCH_ARGS=--quick for a minute)
	@lab/bench up
	@cargo build --release --locked -p order-service -p consumer -p e2e --bin order-service --bin consumer --bin bench
	@$(CARGO_TARGET_DIR)/release/bench $(BENCH_ARGS)
	@lab/bench down

.PHONY: bench-topics
bench-topics: deploy ## The operator with many pipelines of one topic each, on the cluster (TOPICS_ARGS="--count 250 --idle-seconds 600")
	@$(CARGO_TARGET_DIR)/release/topics $(TOPICS_ARGS)

.PHONY: crds
crds: tools ## Generate the CRD, and the chart's copy of it
	@cargo run --quiet --locked -p operator -- crd > $(CRD).new && mv $(CRD).new $(CRD)
	@cp $(CRD) $(CHART_CRD)

.PHONY: lab-up
lab-up: ## The local cluster: Docker engine, kind, Kafka and PostgreSQL images
	@lab/up

.PHONY: lab-down
lab-down: ## Delete the local cluster; caches stay
	@lab/down

.PHONY: deploy
deploy: ## Build the product and put it into the running cluster
	@lab/deploy

.PHONY: image
image: ## Build the product's image, tagged orderflow/orderflow:dev
	@lab/deploy --image-only

# What building and linting need beyond the toolchain.
.PHONY: tools
tools:
	@lab/tools
