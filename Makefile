# vswitchd: `make demo` demonstrates it, `make test` tests it, `make bench` measures it. All three need root.

.DEFAULT_GOAL := help
.PHONY: help build demo demo-vxlan demo-cluster simulate test test-pure test-kernel test-packages fuzz bench lint gates install uninstall deb dist image clean

PREFIX ?= /usr/local
ROUNDS ?= 5
SECONDS_EACH ?= 5
# Of the workspace, not of the package alone: that one wants other features of its dependencies, and so another build of them.
KERNEL_TESTS = VSWITCH_BIN_DIR=$(CURDIR)/target/release \
  cargo test --workspace --locked --features vswitch-tests/kernel --test kernel --

# What the packages are made with.
PACKERS = strip:binutils dpkg-deb:dpkg dpkg-shlibdeps:dpkg-dev

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

build:           ## the binaries, into target/release
	@scripts/need-packages gcc:gcc pcap-config:libpcap-dev
	@scripts/need-rust
	cargo build --release --locked -p vswitch-daemon -p vswitch-cli

demo: build      ## two containers, a ping and iperf3 between them
	@scripts/need-packages ip:iproute2 ping:iputils-ping iperf3:iperf3
	@scripts/demo

demo-vxlan: build ## two hosts, a container on each, one network over both
	@scripts/need-packages ip:iproute2 ping:iputils-ping iperf3:iperf3 bash:bash
	@scripts/demo-vxlan

demo-cluster: build ## three hosts in a cluster, its store killed on the way
	@scripts/need-packages ip:iproute2 ping:iputils-ping pgrep:procps etcd:etcd-server
	@scripts/demo-cluster

simulate:        ## the simulated cluster with 10,000 seeds: some minutes
	VSWITCH_SEEDS=10000 cargo test --release --locked -p vswitch-cluster --test simulation -- --nocapture

test: test-pure test-kernel test-packages fuzz ## all tests

test-pure:       # tests that run anywhere, without root: all targets but tests/kernel, which needs its feature
	@scripts/need-packages gcc:gcc pcap-config:libpcap-dev
	cargo test --workspace --locked

test-kernel: build # tests that need root and a kernel: never skipped. The crash test needs the debug build of the first run
	@scripts/need-packages ip:iproute2 ping:iputils-ping iperf3:iperf3 nft:nftables chromium:chromium ethtool:ethtool tcpdump:tcpdump \
	  tshark:tshark dig:bind9-dnsutils curl:curl ovs-vswitchd:openvswitch-switch prometheus:prometheus tmux:tmux \
	  dockerd:docker.io docker-compose:docker-compose busybox:busybox-static podman:podman containerd:containerd runc:runc \
	  /usr/lib/cni/host-local:containernetworking-plugins firewalld:firewalld busctl:systemd dbus-daemon:dbus etcd:etcd-server etcdctl:etcd-client unbound:unbound dnsmasq:dnsmasq-base
	cargo build --workspace --locked --bins
	cargo test --workspace --locked -- --ignored --test-threads=2
	$(KERNEL_TESTS) --test-threads=2 --skip scale::
	$(KERNEL_TESTS) scale::

test-packages: build # the packages, installed, used under systemd, and purged: two minutes
	@scripts/need-packages $(PACKERS) lintian:lintian mmdebstrap:mmdebstrap systemd-nspawn:systemd-container mandoc:mandoc nft:nftables \
	  python3:python3-venv
	tests/packages/run

fuzz:            # every fuzz target for some seconds
	@scripts/need-packages g++:g++ pcap-config:libpcap-dev
	tests/fuzz/run 10

bench: build     ## in memory, on the wire, through tunnels and with Docker, against other systems: about 90 minutes
	@scripts/need-packages ip:iproute2 iperf3:iperf3 ethtool:ethtool ovs-vswitchd:openvswitch-switch vde_switch:vde2 \
	  nft:nftables dockerd:docker.io busybox:busybox-static /usr/lib/cni/bridge:containernetworking-plugins dnsperf:dnsperf
	cargo build --release --locked -p vswitch-bench
	target/release/vswitch-bench memory
	target/release/vswitch-bench control
	target/release/vswitch-bench names --rounds $(ROUNDS) --seconds $(SECONDS_EACH)
	mkdir -p bench/results
	target/release/vswitch-bench attach --json bench/results/attach.json
	target/release/vswitch-bench engines --rounds $(ROUNDS) --seconds $(SECONDS_EACH) --json bench/results/engines.json
	target/release/vswitch-bench wire --rounds $(ROUNDS) --seconds $(SECONDS_EACH) \
	  --json bench/results/wire.json --svg docs/bench.svg
	target/release/vswitch-bench tunnel --rounds $(ROUNDS) --seconds $(SECONDS_EACH) \
	  --json bench/results/tunnel.json --svg docs/bench-tunnel.svg

lint:            ## format, clippy, unused dependencies and documentation, as CI checks them
	@scripts/need-packages gcc:gcc pcap-config:libpcap-dev jq:jq systemd-analyze:systemd
	scripts/check-unit
	cargo fmt --all --check
	scripts/check-code
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

gates:           ## the other checks of CI: dependencies and crates
	@scripts/need-packages gcc:gcc pcap-config:libpcap-dev jq:jq readelf:binutils
	@scripts/need-rust
	scripts/check-supply
	@scripts/need-packages clang:clang llvm-strip:llvm
	scripts/check-bpf
	scripts/check-rust
	scripts/check-pure vswitch vswitch-vxlan
	scripts/check-alone

install: build   ## programs, manual pages, completions and the systemd unit, below PREFIX
	@scripts/need-packages strip:binutils
	scripts/install $(DESTDIR)$(PREFIX) $(DESTDIR)

uninstall:       ## removes what install has put there, and what the daemon has created; PURGE=1: configuration and store too
	scripts/uninstall $(DESTDIR)$(PREFIX) $(DESTDIR)

deb: build       ## a Debian package, into target/packages
	@scripts/need-packages $(PACKERS)
	scripts/deb

image: build     ## the tree of a container image, into target/packages; see packaging/Containerfile
	@scripts/need-packages strip:binutils nft:nftables
	scripts/image

dist:            ## static programs without symbols, and an archive of them, into target/static: for any Linux
	@scripts/need-packages gcc:gcc readelf:binutils
	@scripts/need-rust
	scripts/dist

clean:           ## removes the build output
	cargo clean
