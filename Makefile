# The verbs of this project; `make` alone prints them. Each does first what it needs, and is quick when that is done already.
.PHONY: help setup probe build demo test test-stack bench soak fleet stack stack-down lint deny clean
.DEFAULT_GOAL := help
# Where things land must not depend on the caller's settings, and a Rust of rustup is found before its user logs in again.
unexport CARGO_TARGET_DIR CARGO_BUILD_TARGET
# They count what happens on the machine: never one beside another.
.NOTPARALLEL:
measures := $(filter bench soak fleet,$(MAKECMDGOALS))
ifneq ($(and $(measures),$(filter-out 0,$(shell id -u))),)
$(error make $(measures) makes real kills, which only root can)
endif
export PATH := $(PATH):$(HOME)/.cargo/bin
# By one command: with two, what both are made of would be compiled twice, with other features of it.
build_bench = cargo build --locked --profile tested --package oom-watcher-bench --bin oom-watcher-bench --package oom-watcher --example oom-maker

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the build needs and this machine lacks (Debian, as root; elsewhere it says what)
	@.ci/setup

probe: setup ## build the eBPF programs
	@probe/build.sh

build: probe ## build target/release/oom-watcher, the eBPF programs inside
	cargo build --locked --release

demo: build ## a real OOM kill in a cgroup of its own, followed to the outputs (as root)
	target/release/oom-watcher selftest --show

test: probe ## all tests that this machine can run; says which it cannot
	@.ci/setup test
	@.ci/test

test-stack: build ## tests with Prometheus, VictoriaLogs, Jaeger and Alertmanager behind the Collector (as root; builds them first)
	@.ci/setup stack
	cargo build --locked --package oom-watcher --example oom-maker
	cargo test --locked --package oom-watcher --test stack

bench: build ## measures it beside what people use today, with real kills (as root); parts of it: ONLY=burst,latency,cost,memory,cluster,growth,loss
	@.ci/setup bench
	$(build_bench)
	target/tested/oom-watcher-bench measure --json $(CURDIR)/target/bench.json $(if $(ONLY),--only $(ONLY)) $(if $(REPEAT),--repeat $(REPEAT))

soak: build ## watches an agent under churn, and draws its memory (as root): MINUTES=30, PICTURE=target/soak.svg
	@.ci/setup bench
	$(build_bench)
	target/tested/oom-watcher-bench soak --minutes $(or $(MINUTES),30) --json $(CURDIR)/target/soak.json --picture $(abspath $(or $(PICTURE),target/soak.svg))

fleet: build ## what the agents of many nodes are for a real Collector, Prometheus, VictoriaLogs and API server (as root): NODES=5000, WATCHED=1000, GATEWAY_MIB=512; parts: ONLY=otlp,scrapes,watches
	@.ci/setup stack
	$(build_bench)
	target/tested/oom-watcher-bench fleet --nodes $(or $(NODES),5000) --watched $(or $(WATCHED),1000) --gateway-mib $(or $(GATEWAY_MIB),512) --json $(CURDIR)/target/fleet.json $(if $(ONLY),--only $(ONLY))

stack: build ## oom-watcher, the Collector, Prometheus, VictoriaLogs, Jaeger and Alertmanager on this machine (as root); says where to look
	@.ci/setup stack
	@otel-collector/stack/run up

stack-down: ## end them
	@otel-collector/stack/run down

lint: ## formatting and lints of the Rust code and of the scripts
	@.ci/setup lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --exclude oom-watcher-probe --all-targets -- -D warnings
# --all-targets leaves out the ring stack, as it has `test = false`.
	cargo clippy --locked --package oom-watcher --test stack -- -D warnings
	probe/build.sh clippy
	git grep -lE '^#!.*\bbash$$|^# shellcheck shell=' | xargs shellcheck -x

deny: ## licences, sources and known faults of the dependencies (needs cargo-deny)
	cargo deny --locked check

clean: ## remove everything that was built
	rm -rf target
