# Everything here needs Go and nothing else. With a C compiler `make test` has the
# race detector as well.

GO       ?= go
FUZZTIME ?= 20s
BENCH    ?= .

# The programs are built without C: one binary, nothing to install, and faster.
PURE     := CGO_ENABLED=0
RACE     := $(shell command -v $$($(GO) env CC) >/dev/null 2>&1 && echo -race)

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TOOL     := $(GO) tool -modfile=internal/tools/go.mod

BUILD    := $(PURE) $(GO) build -trimpath -ldflags '-s -w -X github.com/prometheus/common/version.Version=$(VERSION)' -o bin/blessd ./cmd/blessd
PATIENCE := echo "building blessd; the first time takes a minute or two" >&2

.DEFAULT_GOAL := help
.PHONY: help demo run test browser lint fmt fuzz bench bench-t0 bench-t1 bench-t2 bench-mutants build generate image deb check-deploy

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## every event kind of all five providers, through blessd, onto the terminal
	@$(PATIENCE)
	@$(BUILD)
	@bin/blessd demo

run: ## serve, without a configuration unless ARGS="-c FILE" names one
	@$(PATIENCE)
	@$(BUILD)
	@bin/blessd serve $(ARGS)

test: ## vet, then all tests, with the race detector where there is a C compiler
	@[ -n "$(RACE)" ] || echo "no C compiler: the tests run without the race detector"
	$(GO) vet ./...
	@mkdir -p bin
	BENCH_SKIPPED=$(CURDIR)/bin/bench-skipped $(GO) test $(RACE) -timeout 30m ./...
	@if [ -s bin/bench-skipped ]; then echo "what the bench could not run here, and shows nothing of:"; cat bin/bench-skipped; fi

browser: ## the status page in a real Chromium, if there is one
	$(GO) -C internal/browser vet ./...
	$(GO) -C internal/browser test -v -count=1 ./...

lint: ## gofumpt and staticcheck, at the versions of internal/tools/go.mod
	@unformatted="$$($(TOOL) gofumpt -l .)"; \
	if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	$(TOOL) staticcheck ./...

fmt: ## format all Go files
	$(TOOL) gofumpt -w .

fuzz: ## run each fuzz target for FUZZTIME (20s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

bench: ## run the benchmarks that match BENCH (all)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

bench-t0: ## break blessd in every way, some minutes; e2e/README.md says how
	$(GO) run ./e2e/cmd/bench run -tier 0 -o bin/bench-t0.json $(ARGS)

bench-t1: bench-mutants ## the same for hours, and every seeded bug
	$(GO) run ./e2e/cmd/bench run -tier 1 -o bin/bench-t1.json -keep bin/bench-t1 $(ARGS)

bench-t2: ## the same for a day and more
	$(GO) run ./e2e/cmd/bench run -tier 2 -o bin/bench-t2.json -keep bin/bench-t2 $(ARGS)

bench-mutants: ## have the bench catch every seeded bug, some minutes
	$(GO) run ./e2e/cmd/bench mutants $(ARGS)

build: ## bin/blessd with its version in it
	$(BUILD)

generate: ## write event/schema.json and docs/configuration.md again
	$(GO) generate ./...

BASE    ?= gcr.io/distroless/static-debian12:nonroot
BUILDER ?= $(shell command -v docker || command -v podman || command -v buildah)

image: build ## the image blessd:VERSION, on BASE, with docker, podman or buildah
	$(BUILDER) build $(if $(findstring docker,$(BUILDER)),,--format docker) --build-arg BASE=$(BASE) \
		-t blessd:$(subst +,_,$(VERSION)) -t blessd -f deploy/docker/Dockerfile .

# A version that Debian can compare: that of the tag, or before all of them.
DEB_VERSION := $(shell git describe --tags 2>/dev/null | sed 's/^v//; s/-/+/g' | grep '^[0-9]' || git log -1 --format=0~git%cd.%h --date=format:%Y%m%d 2>/dev/null)
ARCH        := $(shell $(GO) env GOARCH)
DEB          = bin/blessd_$(DEB_VERSION)-1_$(ARCH).deb

deb: build ## bin/blessd_*.deb, a Debian package of it
	@rm -rf bin/deb && mkdir -p bin/deb
	@for shell in bash zsh fish; do bin/blessd completion $$shell >bin/deb/$$shell || exit 1; done
	@gzip -9nc deploy/debian/blessd.1 >bin/deb/blessd.1.gz
	@gzip -9nc CHANGELOG.md >bin/deb/changelog.gz
	@printf 'blessd (%s-1) unstable; urgency=medium\n\n  * What changes is in changelog.gz.\n\n -- The blessd developers <blessd@users.noreply.github.com>  %s\n' \
		'$(DEB_VERSION)' "$$(git log -1 --format=%cD)" | gzip -9nc >bin/deb/changelog.Debian.gz
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) VERSION='$(DEB_VERSION)' ARCH=$(ARCH) \
		$(GO) tool -modfile=deploy/check/go.mod nfpm package --config deploy/debian/nfpm.yaml --packager deb --target $(DEB)

check-deploy: deb ## what make test has no tools for: Kubernetes, compose, the Debian package
	cd deploy/check && $(GO) vet ./... && $(GO) test ./...
	deploy/debian/check.sh $(DEB)
