# SPDX-License-Identifier: Apache-2.0
#
# `make` lists the targets. Building needs Go alone; the tests need root, since
# they make network namespaces and load programs into the kernel.

# sudo leaves /usr/local/go/bin out of PATH.
GO     ?= $(or $(shell command -v go 2>/dev/null),$(wildcard /usr/local/go/bin/go),go)
CLANG  ?= clang-19
PKGS   ?= ./...
FUZZTIME ?= 30s
K ?= 6.1 6.12
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# The race detector needs a C compiler.
RACE := $(if $(shell command -v gcc 2>/dev/null),-race,)

.DEFAULT_GOAL := help
.PHONY: help build demo test test-kernel conformance chart lint generate check-generated fuzz bench bench-peers bench-check bench-terminate peers plots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/spliceway (static; needs no clang)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/spliceway ./cmd/spliceway

demo: build ## build a network of namespaces, run the agent in it, show it at work (root)
	@bin/spliceway demo

test: build ## run every test (root), with the race detector where gcc is there
	@[ "$$(id -u)" = 0 ] || { echo "make test: the tests make network namespaces and load BPF programs: run as root (sudo make test)"; exit 1; }
	@[ -n "$(RACE)" ] || echo "make test: no gcc here, so no race detector (apt-get install gcc libc6-dev)"
	CGO_ENABLED=$(if $(RACE),1,0) $(GO) test $(RACE) -timeout 9m $(PKGS)
	SPLICEWAY_TEST_ENGINE=auto CGO_ENABLED=0 $(GO) test -timeout 9m -skip 'TestPacket|TestSockmap|TestACME|TestHandshakes|TestClient|TestTerminat|TestStart|TestAdmin' ./testenv/e2e

test-kernel: ## the kernel's tests on Debian's Linux K (6.1 6.12) in an emulator; ARGS as of testenv/kernel
	CGO_ENABLED=0 $(GO) run ./testenv/kernel -k "$(K)" $(ARGS)

# A build of the API server takes minutes and 3 GB the first time, then it is in Go's cache.
KUBE := v1.37.2
conformance: build ## the Gateway API's conformance suite against a real API server (root; ARGS as of go test)
	@[ "$$(id -u)" = 0 ] || { echo "make conformance: it makes network namespaces: run as root (sudo make conformance)"; exit 1; }
	mkdir -p bin/kube docs/conformance
	cd testenv/kube/control && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBE) -X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBE:v%=%))) -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBE)))' -o ../../../bin/kube/control .
	cd testenv/kube/conformance && CGO_ENABLED=0 $(GO) build -trimpath -o ../../../bin/kube/echo-basic sigs.k8s.io/gateway-api/conformance/echo-basic
	cd testenv/kube/conformance && CGO_ENABLED=0 $(GO) test -count=1 -timeout 15m $(ARGS) . -args -agent-version '$(VERSION)' -report "$(CURDIR)/docs/conformance/report.yaml"

chart: ## tests of deploy: the chart, the plain manifests, the dashboard, the Containerfile
	cd testenv/kube/chart && CGO_ENABLED=0 $(GO) vet ./... && $(GO) mod tidy -diff && CGO_ENABLED=0 $(GO) test -count=1 ./...

lint: ## gofmt, vet, staticcheck, module files, licence lines
	@out=$$(gofmt -l .); [ -z "$$out" ] || { echo "gofmt -w these:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff
	@out=$$(git ls-files '*.go' '*.c' '*.h' | grep -v _bpfel.go | xargs grep -L SPDX-License-Identifier); [ -z "$$out" ] || { echo "no SPDX line in:"; echo "$$out"; exit 1; }

generate: ## compile the BPF programs and regenerate what is made from source (needs $(CLANG), libbpf-dev)
	BPF2GO_CC=$(CLANG) $(GO) generate ./bpf
	$(GO) test ./userspace/telemetry -count=1 -run Docs -update
	cd testenv/kube/chart && CGO_ENABLED=0 $(GO) build -o ../../../bin/controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen
	bin/controller-gen crd paths=./userspace/api/v1alpha1 output:crd:dir=deploy/helm/spliceway/crds
	cp deploy/grafana/spliceway.json deploy/helm/spliceway/dashboards/spliceway.json
	cd testenv/kube/chart && CGO_ENABLED=0 $(GO) test -count=1 -run TestPlain . -update

check-generated: generate ## fail if what is committed is not what the sources give
	@git diff --exit-code -- bpf docs deploy || { echo "generated files differ: commit what 'make generate' made"; exit 1; }

fuzz: ## run every fuzz target for FUZZTIME (30s)
	@for f in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
		for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f); do \
			echo "== $$t in $$(dirname $$f)"; \
			$(GO) test -run '^$$' -fuzz "^$$t$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f) || exit 1; \
		done; done

bench: ## benchmarks of the hot paths in the process (route table, parser, dial)
	$(GO) test -run '^$$' -bench . -benchmem $(PKGS)

# HAProxy, nginx and sniproxy are Debian's (apt-get install haproxy nginx libnginx-mod-stream sniproxy); the peers written in Go are built.
# A quick run says whether it all runs, and leaves docs as they are.
PEERS := PATH="$(CURDIR)/bin/peers:$$PATH:/usr/sbin"
bench-peers: build peers ## every engine, a direct connection and the peers side by side, into docs (root; QUICK=1, HAPROXY=/path[,/path], BENCHFLAGS)
	$(PEERS) $(GO) run ./testenv/bench $(if $(QUICK),-quick -json bin/bench/peers.json,-json docs/benchmarks/peers.json -docs docs/benchmarks.md) $(BENCHFLAGS)
	cd testenv/bench/plots && $(GO) run . -in ../../../$(if $(QUICK),bin/bench/peers.json -out ../../../bin/bench/img,docs/benchmarks/peers.json -out ../../../docs/img)

plots: ## tests of what draws the plots in docs/img
	cd testenv/bench/plots && CGO_ENABLED=0 $(GO) vet ./... && $(GO) mod tidy -diff && CGO_ENABLED=0 $(GO) test -count=1 ./...

bench-check: build ## fail where a ratio to a direct connection is 15 % behind the run in docs/benchmarks (root; BENCHFLAGS="-only bulk")
	$(GO) run ./testenv/bench -check docs/benchmarks/peers.json $(BENCHFLAGS)

peers: ## build the peers that are written in Go into bin/peers
	cd testenv/bench/peers && CGO_ENABLED=0 $(GO) build -trimpath -o ../../../bin/peers/tlsrouter github.com/inetaf/tcpproxy/cmd/tlsrouter
	cd testenv/bench/peers && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o ../../../bin/peers/caddy ./caddy

bench-terminate: build ## TLS termination against nginx (stream module) and HAProxy (root; BENCHFLAGS="-quick")
	$(GO) run ./testenv/bench -terminate $(BENCHFLAGS)

clean: ## remove what was built
	rm -rf bin
