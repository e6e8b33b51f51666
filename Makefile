# The whole daily life of the project; CI runs the same targets.

CARGO ?= cargo
RELEASE = target/release
YARD = $(RELEASE)/yard
# The programs behind built-in images and the plugins that a running cluster needs.
PRODUCT = -p switchyard -p switchyard-echo -p switchyard-pause -p switchyard-ingress \
	-p switchyard-kubenet -p switchyard-overlay -p switchyard-nsx -p switchyard-none
BENCHES = -p switchyard-benches -p switchyard-ingress -p switchyard-control
# What the tests call besides cargo: oracles for the kernel's state, second opinions on the API and on generated load.
TOOLS = ip:iproute2 nft:nftables setpriv:util-linux curl:curl dig:bind9-dnsutils kubectl:kubernetes-client \
	iperf3:iperf3 wrk:wrk h2load:nghttp2-client
# Whom the benches compare us with; without them the page says whom it could not compare with.
BENCH_TOOLS = unshare:util-linux dnsmasq:dnsmasq-base unbound:unbound nginx:nginx \
	/usr/lib/cni/bridge:containernetworking-plugins
ifneq ($(CARGO_TARGET_DIR),)
RELEASE = $(CARGO_TARGET_DIR)/release
endif

.PHONY: demo build down check test tools bench bench-test bench-tools

# Boots the cluster of examples/sphinx, asks it a few questions, prints what there is and what to try. Again: applies it again.
demo: build
	$(YARD) up -f examples/sphinx

build:
	$(CARGO) build --release $(PRODUCT)

down:
	$(YARD) down --cluster sphinx

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

# Programs and plugin first: the end-to-end tests boot real clusters with them.
test: tools
	$(CARGO) build --workspace --lib --bins --tests
	$(CARGO) test --workspace

tools:
	@$(call installed,tests,$(TOOLS))

bench-tools:
	@$(call installed,benches,$(BENCH_TOOLS))

# Servers are often where only root looks for programs.
define installed
missing=""; PATH="$$PATH:/usr/sbin:/sbin"; \
for pair in $(2); do command -v "$${pair%%:*}" > /dev/null || missing="$$missing $${pair##*:}"; done; \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; \
else echo "$(1) need:$$missing; install with: sudo apt-get install$$missing" >&2; exit 1; fi
endef

# Whole paths first, on the release build; docs/benchmarks.md, and the README's table, are made of what they measured.
bench: build bench-tools
	$(CARGO) bench $(BENCHES)
	$(CARGO) run --release -q -p switchyard-benches --bin yard-bench-page

# One quick turn of every bench: that they run, not what they measure. Nothing is written.
bench-test: build
	$(CARGO) bench $(BENCHES) -- --test
