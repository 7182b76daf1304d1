# `make` alone lists the targets. Builds share one set of flags, so that they
# share the build cache; tests have -race, which has a cache of its own anyway.
SHELL := /bin/bash
# What fails before a pipe fails its target.
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE ?= sluice:$(VERSION)

# buildvcs=false: root may build a clone that is another user's.
export GOFLAGS := -buildvcs=false
STATIC := CGO_ENABLED=0 GOFLAGS="-buildvcs=false -trimpath"
TOOL := go tool -modfile=tools/go.mod

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z\/]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Run all of Sluice here, with a Postgres of its own in .sluice.
	exec bin/sluice dev

.PHONY: test
test: ## Run every test, against a real Postgres.
	go test -race -timeout 9m ./...

.PHONY: lint
lint: ## Check format, vet and the linters of .golangci.yml.
	@files=$$(git ls-files --cached --others --exclude-standard '*.go' | xargs -r gofmt -l); \
		if [ -n "$$files" ]; then echo "not formatted by gofmt:"; echo "$$files"; exit 1; fi
	$(STATIC) go vet ./...
	$(STATIC) $(TOOL) golangci-lint run

.PHONY: bench
bench: build ## Measure intake and work here, each beside a yardstick of the same run.
	bin/sluice bench intake
	bin/sluice bench work

.PHONY: bench/stored
bench/stored: build ## Measure the intake into 10 million stored events, beside an empty table (15 minutes, 15 GB).
	bin/sluice bench intake --connections 64 --stored 10000000

.PHONY: fuzz
fuzz: ## Run every fuzz test for FUZZTIME (60s) each, beside nothing else.
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r room; do \
		for name in $$(cat $$room/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(f \*testing.F).*/\1/p'); do \
			echo "$$room $$name"; go test $$room -run '^$$' -fuzz "^$$name\$$" -fuzztime $(or $(FUZZTIME),60s) || exit 1; \
		done; done

.PHONY: prove/hostile
prove/hostile: ## Give every field of the API each of the hostile values, and a real process hostile bytes.
	SLUICE_TEST_HOSTILE=all go test ./api -run 'TestNoFieldIsTooMuch|FuzzDoor|FuzzFields' -count=1 -v | grep -v '^=== '
	SLUICE_TEST_HOSTILE=all go test ./cmd/sluice -run 'TestTheDoorStandsHostileBytes|TestConnectionsBeyond' -count=1 -v | grep -v '^ *{"time"'

.PHONY: prove/isolation
prove/isolation: ## Weaken each policy and take out each predicate in turn, and keep two tenants apart without row security.
	SLUICE_TEST_ISOLATION=1 go test ./db ./api -count=1 -v -run 'TestTheCatalogue|TestEveryWeakenedPolicy|TestEveryStatementOfATenant|TestNoTenant|TestNoRowIsLinked|TestPredicatesAlone' | grep -v '^=== '

.PHONY: prove/secrets
prove/secrets: ## Look for every secret wherever something is told, change keys and erase tenants in mid-flight.
	SLUICE_PROVE_SECRETS=1 SLUICE_PROVE_ERASURES=5 go test ./cmd/sluice -count=1 -v -run 'TestNoSecretIsEverTold|TestNothingOfAnErasedTenantComesBack|TestTheMasterKeyChangesUnderLoad'

.PHONY: prove/overload
prove/overload: build ## Offer ten times what the door can do for a minute, and see everything acked end.
	bin/sluice bench overload

.PHONY: show/sources
show/sources: ## Send every sample of every source twice, shuffled, with forgeries, and print what became of them.
	go test ./cmd/sluice -run TestSendOverAllSources -count=1 -v | grep -v '^ *{"time"'

.PHONY: show/injections
show/injections: ## Send every injection to every source and connector, with a model that obeys, and print what arrived.
	SLUICE_TEST_INJECTIONS=all go test ./cmd/sluice -run TestInjectionsReachNobody -count=1 -timeout 60m -v | grep -v '^ *{"time"'

.PHONY: prove
prove: prove/chaos prove/hostile prove/isolation prove/overload prove/secrets ## Prove all of it that is too heavy for `make test`.

.PHONY: build/proof
build/proof: ## Build bin/sluice-proof, which can be killed at its boundaries and whose clock can be shifted.
	$(STATIC) go build -tags proof -o bin/sluice-proof ./cmd/sluice

.PHONY: chaos
chaos: build/proof ## Let everything go wrong for 10 minutes, and ask the journals; CHAOS="--for 1h --seed 7" for others.
	bin/sluice-proof bench chaos --binary bin/sluice-proof $(CHAOS)

.PHONY: prove/chaos
prove/chaos: build/proof ## A short chaos: 30 s of faults, then the judges.
	bin/sluice-proof bench chaos --binary bin/sluice-proof --for 30s --every 1500ms --hold 5s --settle 3m

.PHONY: bench/go
bench/go: ## Run the Go benchmarks; compare two runs with `go tool -modfile=tools/go.mod benchstat`.
	go test -run '^$$' -bench . -benchmem ./...

.PHONY: openapi
openapi: ## Write openapi/openapi.yaml anew.
	@mkdir -p openapi
	$(STATIC) go run ./cmd/sluice openapi > openapi/.openapi.yaml
	@mv openapi/.openapi.yaml openapi/openapi.yaml

.PHONY: build
build: ## Build bin/sluice, static.
	$(STATIC) go build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/sluice ./cmd/sluice

.PHONY: image
image: ## Build the container image.
	docker build -f deploy/Dockerfile --build-arg VERSION=$(VERSION) -t $(IMAGE) .

.PHONY: clean
clean: ## Remove bin and the data of `make run`; stops nothing.
	rm -rf .sluice bin
