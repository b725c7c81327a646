# keylab: `make` lists the targets. Works with GNU make on Debian and Ubuntu, as root and as a normal user.

LAB       ?= e2e
NODES     ?= 3
SUBSTRATE ?= netns
MODE      ?= pull
UPFLAGS   ?=
FUZZTIME  ?= 10s
REPORTS   ?= build/scenarios
# DISARM=1: how many idle labs at once.
IDLE      ?= 6
PREFIX    ?= /usr/local

# Recipes that ask for a password or print progress do not mix.
.NOTPARALLEL:

# The version is what git says of this tree; an archive without git has none.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT  := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

# Where Go's own archive puts it, for a shell that does not have it in its path.
export PATH := $(PATH):/usr/local/go/bin
# The version is stamped above, and git refuses to look into a tree of another user, as containers have it. Without its path a tree that is
# cloned anew needs nothing compiled, vetted or linted that was so elsewhere.
export GOFLAGS := -buildvcs=false -trimpath $(GOFLAGS)

KEYLAB  := bin/keylab
LDFLAGS := $(if $(VERSION),-X main.version=$(VERSION))

# What the substrate kind needs besides.
SETUP  := $(if $(filter kind,$(SUBSTRATE)),kind,lab)
DOCKER := $(if $(filter kind,$(SUBSTRATE)),dockerd)

.DEFAULT_GOAL := help
.PHONY: help setup build build-simulator install e2e run verify docker dockerd kind clean realclean test lint scenarios docs bench parity fuzz race

help: ## print this list
	@echo "make e2e    sets the machine up, builds keylab, brings up a lab of $(NODES) nodes and proves it"
	@echo "make test   sets the machine up, and passes every check and test"
	@echo
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: NODES=$(NODES) LAB=$(LAB) SUBSTRATE=$(SUBSTRATE) MODE=$(MODE) UPFLAGS=$(UPFLAGS) FUZZTIME=$(FUZZTIME) PREFIX=$(PREFIX)"

setup: ## check what this machine lacks, and install it from Debian (root or sudo only)
	@scripts/setup.sh test

build: ## build bin/keylab: one static file
	@scripts/setup.sh go
	CGO_ENABLED=0 go build -ldflags '-s -w $(LDFLAGS)' -o $(KEYLAB) ./cmd/keylab

build-simulator: ## build bin/keylab-simulator, which has a TPM simulator built in (cgo)
	@scripts/setup.sh test
	CGO_ENABLED=1 go build -ldflags '-s -w $(LDFLAGS)' -o $(KEYLAB)-simulator ./cmd/keylab

install: build ## copy bin/keylab to $(PREFIX)/bin
	install -D -m 0755 $(KEYLAB) $(DESTDIR)$(PREFIX)/bin/keylab

e2e: ## set up, build, bring up a new lab of NODES nodes on SUBSTRATE in MODE (pull or push) and prove it; the lab stays up
	@scripts/setup.sh $(SETUP)
	@$(MAKE) --no-print-directory build $(DOCKER)
	@said=$$($(KEYLAB) wipe $(LAB) 2>&1) || { echo "$$said" >&2; exit 1; }
	$(KEYLAB) up --lab $(LAB) --nodes $(NODES) --substrate $(SUBSTRATE) --mode $(MODE) $(UPFLAGS)
	$(KEYLAB) verify $(LAB)
	@echo "The lab runs: $(KEYLAB) status $(LAB). \`make clean\` ends it and deletes it."

run: build $(DOCKER) ## build, and bring up lab LAB of NODES nodes on SUBSTRATE
	$(KEYLAB) up --lab $(LAB) --nodes $(NODES) --substrate $(SUBSTRATE) --mode $(MODE) $(UPFLAGS)

kind: ## run, on Kubernetes in Docker
	@$(MAKE) --no-print-directory run SUBSTRATE=kind

verify: ## prove what lab LAB claims
	@test -x $(KEYLAB) || { echo "make verify: $(KEYLAB) is not built; 'make run' or 'make e2e' first." >&2; exit 1; }
	$(KEYLAB) verify $(LAB)

docker: build dockerd ## build the container images, or find them in the cache
	$(KEYLAB) images build

dockerd:
	@scripts/setup.sh kind
	@scripts/dockerd.sh start

test: ## set up, lint, and run all tests
	@scripts/setup.sh test
	@scripts/dockerd.sh try
	@$(MAKE) --no-print-directory lint
	@scripts/gotest.sh ./e2e ./lab ./cmd/keylab ./... # the longest first: packages run side by side

race: ## run all tests with the race detector
	@scripts/setup.sh test
	@scripts/gotest.sh -race ./...

lint: ## gofmt, go vet, staticcheck, shellcheck, actionlint and the house rules
	@unformatted=$$(gofmt -l $$(find . -name '*.go' -not -path './.git/*')); \
	  test -z "$$unformatted" || { echo "gofmt -w these files:" >&2; echo "$$unformatted" >&2; exit 1; }
	CGO_ENABLED=0 go vet ./...
	CGO_ENABLED=1 go vet ./...
	CGO_ENABLED=1 go run $(STATICCHECK) ./...
	go mod verify
	shellcheck .ci/run scripts/*.sh
	go run $(ACTIONLINT) .github/workflows/*.yaml examples/github-workflow.yml
	scripts/houserules.sh

scenarios: build ## run the whole library of scenarios, in both models; reports in REPORTS, SCENARIOFLAGS are options of keylab run. DISARM=1: see that each fails when nothing is broken
	@scripts/setup.sh lab
	$(KEYLAB) run --all --mode all --report $(REPORTS) $(if $(DISARM),--disarm --parallel $(IDLE)) $(SCENARIOFLAGS)

docs: ## write the generated parts of docs/ again; with REPORT=run.html also the pictures of that report (needs Chromium)
	go generate ./lab/spec ./report ./scenario ./scenarios
	go test ./cmd/keylab -run '^TestCommandReference$$' -args -write-docs
	go test ./graph -run '^TestPictureOfTheREADME$$' -args -update
	$(if $(REPORT),scripts/report-pictures.sh "$(REPORT)")

bench: ## measure: time of up, TPM manufacture, quotes, memory; BENCHFLAGS are its options
	@scripts/setup.sh bench
	CGO_ENABLED=0 go build -ldflags '-s -w $(LDFLAGS)' -o bin/keylab-bench ./cmd/keylab-bench
	bin/keylab-bench $(BENCHFLAGS)

parity: ## compare keylab's agents with real ones: AGENT=/path/to/keylime_agent, PUSH_AGENT=/path/to/keylime_push_model_agent, or one of them; PARITYFLAGS are its options
	@test -n "$(AGENT)$(PUSH_AGENT)" || { echo "make parity: AGENT=/path/to/keylime_agent, PUSH_AGENT=/path/to/keylime_push_model_agent, or both, name the agents to compare with" >&2; exit 2; }
	@scripts/setup.sh lab
	CGO_ENABLED=0 go build -o bin/keylab-parity ./cmd/keylab-parity
	bin/keylab-parity $(PARITYFLAGS) $(if $(PUSH_AGENT),--push-agent $(PUSH_AGENT)) $(AGENT)

fuzz: ## run every fuzz target for FUZZTIME
	@scripts/fuzz.sh $(FUZZTIME)

clean: ## end and delete lab LAB, what a broken-off `make test` left, and everything built
	@scripts/clean.sh $(LAB)

realclean: ## clean, and delete the cached Keylime and images too
	@scripts/clean.sh --look $(LAB)
	@scripts/clean.sh $(LAB)
	@scripts/clean.sh --cache
