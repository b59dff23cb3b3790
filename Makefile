# bursar: what a newcomer types. Needs Rust, Node with npm, make; each target sets up the rest.
.DELETE_ON_ERROR:
.PHONY: help demo devnet build test compile test-rust test-contracts symbolic artifacts gas bench lint fmt ci clean

export PATH := $(CURDIR)/node_modules/.bin:$(PATH)

# npm's own record of what it installed: older than the lock file means install again.
NODE := node_modules/.package-lock.json
# Official clients and servers of x402 and MPP, unmodified; the one of version 1 in a folder of its own.
OFFICIAL := tests/official/node_modules/.package-lock.json tests/official/v1/node_modules/.package-lock.json
CARGO_TEST := $(shell command -v cargo-nextest >/dev/null 2>&1 && echo "cargo nextest run" || echo "cargo test")

help: ## Say what can be made.
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(NODE): package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(OFFICIAL): %/node_modules/.package-lock.json: %/package.json %/package-lock.json
	cd $* && npm ci --ignore-scripts --no-audit --no-fund --legacy-peer-deps
	@touch $@

build: ## Build the program.
	cargo build --locked

demo: $(NODE) $(OFFICIAL) ## Agents pay and buy, operators approve, the books meet the chain: minutes after the build.
	cargo build --locked --bin bursar --example demo
	demo/run

devnet: $(NODE) build ## Start a chain with a wallet, agents, operators and payees on it.
	target/debug/bursar devnet

# The compiler of the contracts has one thread: the program is compiled beside it. What each says is
# shown whole when it is done, and either's failure is the target's. An older make does one by one.
BESIDE := $(if $(filter output-sync,$(.FEATURES)),--jobs=2 --output-sync=target)
test: $(NODE) ## Everything that has to hold.
	$(MAKE) --no-print-directory $(BESIDE) test-contracts compile
	$(MAKE) --no-print-directory artifacts gas symbolic test-rust

compile:
	$(CARGO_TEST) --locked --features fault-injection --no-run

test-contracts: $(NODE) ## Forge: unit, fuzz, invariant and attack tests, gas snapshots.
	forge test

artifacts: $(NODE) ## Generated files, the embedded contracts first, against fresh ones.
	script/artifacts --check
	demo/make-requests --check

gas: $(NODE) ## What a payment costs by its receipt, against targets and the committed figures.
	script/gas

symbolic: $(NODE) ## Halmos: rings and packing for all inputs at once.
	script/halmos

# What is drawn at random starts from this seed; name it to repeat a run.
BURSAR_TEST_SEED ?= $(shell od -An -N6 -tu8 /dev/urandom | tr -d ' ')
test-rust: export BURSAR_TEST_SEED := $(BURSAR_TEST_SEED)
test-rust: export BURSAR_TEST_COUNTS := $(CURDIR)/target/counts.jsonl
test-rust: $(NODE) $(OFFICIAL) ## Unit tests, histories, and the daemon on a real anvil: on SQLite, then on PostgreSQL.
	script/postgres install
	@mkdir -p target && rm -f $(CURDIR)/target/counts.jsonl
	@echo "drawn at random from BURSAR_TEST_SEED=$(BURSAR_TEST_SEED)"
	$(CARGO_TEST) --locked --features fault-injection
	BURSAR_TEST_STORE=postgres $(CARGO_TEST) --locked --features fault-injection --test main -- \
		--skip store::
	script/counts $(CURDIR)/target/counts.jsonl sqlite postgres

bench: $(NODE) ## Payments near and far from the node, on both stores; vouchers; paid calls; gas of channels.
	script/postgres install
	cargo bench --locked --bench load

lint: $(NODE) ## Formats and lints, nothing changed.
	cargo fmt --check
	cargo clippy --locked --all-targets --features fault-injection -- -D warnings
	forge fmt --check

fmt: $(NODE) ## Format everything.
	cargo fmt
	forge fmt

ci: ## What CI runs.
	.ci/run

clean: ## Remove what was built, not what was installed.
	rm -rf target .demo .devnet
