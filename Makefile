SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# What a caller may choose.
PORT ?= 8000
PROFILE ?=
MODEL ?=
LOG_REQUESTS ?=
HOURS ?=
POD_IMAGE ?=
PYTHON ?=
# Where torch's CPU build is looked for when pip, as configured, does not find it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Images of CI set it, and then each process of a test run compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PY := $(BIN)/python
CPU_OR_GPU := $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)
TESTS ?=
CELLS ?=

.PHONY: help setup serve doctor check check-tests check-format check-lint check-imports check-types check-types-again check-security test test-timed e2e e2e-waiting e2e-no-ray e2e-launcher e2e-thinking test-hostile test-replicas test-runner-v2 test-k8s test-pods image sbom test-image test-clients soak bench-overhead replay-scaling monitoring lock docs-reference clean

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo "  Variables: PORT=$(PORT) PROFILE=local-cpu|t4|rtx4090|mixed|single-gpu|gpu-6gb (found by itself) MODEL=<hub name, path, smollm2, micro-r1 or micro-r2>"
	@echo "  Tests: TESTS=<what pytest takes>; the last line counts what did not run, and REQUIRE_ALL=1 makes that a failure"

setup: ## Virtual environment .venv with the locked dependencies (runs by itself, once)
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash deploy/setup.sh "$(CPU_OR_GPU)"

serve: setup ## Serve both tiers on this machine; Ctrl-C stops everything. LOG_REQUESTS=1 shows each request, KEYS=1 asks for keys
	@exec $(PY) -m serve_app serve --port $(PORT) $(if $(KEYS),--keys $(filter-out 1,$(KEYS))) $(if $(PROFILE),--profile $(PROFILE)) $(if $(MODEL),--model "$(MODEL)") $(if $(LOG_REQUESTS),--log-requests)

doctor: setup ## What the running service, this cluster or machine can run, why something cannot, what to change
	@# Of several services the one of PORT, where the caller has set it.
	@$(if $(MODEL),TIERSERVE_MODEL="$(MODEL)") $(PY) -m serve_app doctor $(if $(PROFILE),--profile $(PROFILE)) $(if $(filter-out file,$(origin PORT)),--port $(PORT))

# Unit tests; `make test` adds the slow ones and those of the manifests that need no tools.
UNIT ?= not e2e and not slow
UNIT_IGNORES ?= tests/e2e tests/hostile tests/k8s tests/runner_v2
SANDBOXED := --allow-hosts=127.0.0.1,::1 --allow-unix-socket
# One more than cores, up to four: some tests wait for a while.
WORKERS_THAT_WAIT := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))
UNIT_WORKERS ?= $(WORKERS_THAT_WAIT)
# A file is one worker's: what is imported and set up for it is so once.
UNIT_DIST ?= loadfile
STATIC ?= check-format check-lint check-imports check-types

check: setup ## Format, lint, import rules, types, unit tests, all at once; what fails stops no other
	@# The tests are shown as they run, then what the others found.
	@found=$$(mktemp); trap 'kill $$static 2>/dev/null || true; rm -f "$$found"' EXIT; \
	make --no-print-directory --keep-going --jobs=$(words $(STATIC)) --output-sync=target $(STATIC) >"$$found" 2>&1 & static=$$!; \
	tests=0; make --no-print-directory check-tests || tests=$$?; \
	others=0; wait $$static || others=$$?; cat "$$found"; \
	[ $$tests = 0 ] && [ $$others = 0 ]

check-tests: setup
	@$(PY) -m pytest -m "$(UNIT)" $(UNIT_IGNORES:%=--ignore=%) -n $(UNIT_WORKERS) --dist $(UNIT_DIST) $(SANDBOXED) $(TESTS)

check-format: setup
	$(BIN)/ruff format --check .

check-lint: setup
	$(BIN)/ruff check .

check-imports: setup
	$(BIN)/lint-imports

check-types: setup
	$(BIN)/pyrefly check --min-severity error --output-format min-text

check-types-again: setup  # by basedpyright too, which takes ten times as long
	$(BIN)/basedpyright --level error

check-security: setup ## Both locks against the known vulnerabilities; needs PyPI or OSV, so not part of `make check`
	$(PY) -m deploy.audit

# Those of `make e2e` that mostly wait: for alerts, for replicas to come and go, for reports of usage.
WAITING := tests/e2e/monitoring/test_live.py tests/e2e/cluster tests/e2e/keys
# Those that need no Ray: vLLM in the test's own process, Prometheus' own tool. They judge no time.
NO_RAY := tests/engine tests/e2e/monitoring/test_promtool.py
# From nothing to ready and back, four times: no test here judges a time either.
LAUNCHER := tests/e2e/launcher
# What a model that reasons answers: no test here judges a time.
THINKING := tests/e2e/thinking
# What else is left out: `make test` has run it before.
E2E_IGNORES ?=
e2e: setup
	$(PY) -m pytest -m e2e --durations=20 $(addprefix --ignore=,tests/e2e/replicas tests/k8s tests/hostile tests/runner_v2 $(E2E_IGNORES)) $(TESTS)

e2e-waiting: setup
	@$(PY) -m pytest -m e2e --durations=10 $(WAITING)

e2e-no-ray: setup
	@$(PY) -m pytest -m e2e --durations=5 $(NO_RAY)

e2e-launcher: setup
	@$(PY) -m pytest -m e2e --durations=5 $(LAUNCHER)

e2e-thinking: setup
	@$(PY) -m pytest -m e2e --durations=10 $(THINKING)

# They use a third of two cores with three workers.
test-timed: setup
	@$(PY) -m pytest -m timed --ignore=tests/e2e --ignore=tests/hostile -n 4 --dist load $(SANDBOXED)

test-hostile: setup ## Attacks on real vLLM: TESTS="-k headers" for one kind, HOSTILE_REQUESTS=20000
	$(PY) -m pytest -m hostile tests/hostile $(TESTS)

test-replicas: setup ## Two replicas: relay, drain, and parts killed under load (not in `make test`)
	$(PY) -m pytest -m e2e tests/e2e/replicas

# .venv with the GPU lock's Triton before it, whose kernels its interpreter runs on the CPU.
RUNNER_V2 ?= .cache/runner-v2
test-runner-v2: setup ## vLLM's model runner V2, which GPUs have, under Triton's interpreter, in an environment of its own (not in `make test`)
	@bash tests/runner_v2/environment.sh $(RUNNER_V2)
	@# vLLM's runner brings torch's compiler along when a file is collected, and that its own deprecated parts.
	TRITON_INTERPRET=1 TRITON_BACKENDS_IN_TREE=1 $(RUNNER_V2)/bin/python -m pytest tests/runner_v2 --durations=5 \
		-W ignore::DeprecationWarning $(TESTS)

soak: setup ## Mixed load, faults in turn, what drifts: ten minutes; HOURS=72 is the acceptance
	@exec $(PY) -m loadtest soak $(if $(HOURS),--hours $(HOURS)) $(if $(MODEL),--model "$(MODEL)")

test-k8s: setup ## The Kubernetes manifests, without a cluster: schemas, traps, checkov, and the Pods by hand (root)
	@# Its last line counts what did not run; REQUIRE_ALL=1 makes that a failure, in every suite.
	@bash tests/k8s/get-tools.sh
	CHECKOV=$${CHECKOV:-.cache/checkov-3.3.30/bin/checkov} $(PY) -m pytest tests/k8s $(TESTS)

test-pods: setup ## The Pods by hand alone (root; POD_IMAGE=build/image: from `make test-image`), into docs/kubernetes.md
	$(PY) -m tests.k8s.pods $(if $(POD_IMAGE),--image $(POD_IMAGE))

# The image's base is pinned by the digest that the registry has for it now; name an older one to build
# the same again.
IMAGE ?= tierserve
KIND ?= gpu
BASE ?= docker.io/library/debian:bookworm-slim
BASE_DIGEST ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
digest = $(or $(BASE_DIGEST),$(shell docker buildx imagetools inspect --format '{{.Manifest.Digest}}' $(BASE)))
image_args = --file deploy/Dockerfile --build-arg KIND=$(KIND) --build-arg BASE=$(BASE) \
	--build-arg BASE_DIGEST=$(digest) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$$(git rev-parse HEAD) --build-arg TORCH_INDEX=$(TORCH_INDEX)
image: ## The image for KubeRay, with Docker: KIND=gpu|cpu, IMAGE=name, BASE_DIGEST=sha256:...
	docker build $(image_args) --target runtime --tag $(IMAGE):$(VERSION)-$(KIND) .

sbom: ## What is in the image, as CycloneDX and Debian's list, into build/sbom-KIND
	docker build $(image_args) --target sbom --output build/sbom-$(KIND) .

test-image: setup ## The image's CPU kind without Docker (root, debootstrap, 10 GB): each step, then served
	$(PY) -m tests.k8s.image build/image $(TESTS)

test-clients: setup ## The real clients of docs/clients.md against `make serve MODEL=micro-r1`; TESTS=--resume goes on
	$(PY) -m tests.clients --base-url http://127.0.0.1:$(PORT) $(TESTS)

test: export UNIT = not e2e and not timed
test: export UNIT_IGNORES = tests/e2e tests/hostile tests/runner_v2
test: export STATIC = check-format check-lint check-imports check-types check-types-again
# A file of simulated days takes minutes.
test: export UNIT_DIST = load
# The slow ones keep their cores busy; those that judge times mostly wait, and are not among them.
test: export UNIT_WORKERS = $(shell cores=$$(nproc); echo $$((cores < 4 ? cores : 4)))
# What runs beside others may have to wait for a core; a test's own limit goes before this one.
test: export PYTEST_TIMEOUT = 300
# A thirtieth of a core's time beside one that is busy: Ray declares a node dead that gets none.
test: GIVING_WAY := nice -n 15
test: setup ## Everything a machine without a GPU can prove: check, then real Ray and real vLLM
	@# In the background what mostly waits and then the tests that judge times; beside them what keeps
	@# cores busy and judges no time, which gives way. The output of the former comes when both have
	@# ended. Only a failure of check ends the rest.
	@shown=$$(mktemp); trap 'kill $$timed 2>/dev/null || true; rm -f "$$shown"' EXIT; \
	make --no-print-directory --keep-going --jobs=1 e2e-waiting test-timed >"$$shown" 2>&1 & timed=$$!; \
	$(GIVING_WAY) make --no-print-directory check; \
	failed=0; \
	$(GIVING_WAY) make --no-print-directory --keep-going --jobs=2 --output-sync=target e2e-no-ray e2e-launcher || failed=$$?; \
	$(GIVING_WAY) make --no-print-directory e2e-thinking || failed=$$?; \
	wait $$timed || failed=$$?; cat "$$shown"; \
	make --no-print-directory e2e E2E_IGNORES="$(WAITING) $(NO_RAY) $(LAUNCHER) $(THINKING)" || failed=$$?; \
	[ $$failed = 0 ]

bench-overhead: setup ## What serving adds to bare vLLM; writes loadtest/results/overhead*.json, docs/overhead.md and README's table
	$(PY) -m loadtest overhead
	$(PY) -m loadtest overhead --model random --no-pure-path
	@# What promises are on, in so many rounds that their few milliseconds are told from the machine's.
	$(PY) -m loadtest overhead --rounds 20 --systems bare ours --concurrency 1 8 32 --open-loop-rate 0 \
		--no-pure-path --out loadtest/results/overhead-promises.json
	@# What `/v1` costs beside the tier's own route.
	$(PY) -m loadtest overhead --rounds 12 --systems ours-v1 --concurrency 1 8 32 --open-loop-rate 0 \
		--no-pure-path --out loadtest/results/overhead-routes.json
	$(PY) -m loadtest readme

replay-scaling: setup ## Scaling laws on real Ray in real time beside the simulation: an hour; CELLS="azure step"
	$(PY) -m loadtest replay-scaling $(if $(CELLS),--cells $(CELLS))

monitoring: setup ## Prometheus with all rules beside `make serve`, at 127.0.0.1:9090; Ctrl-C stops it
	@exec $(PY) -m deploy.monitoring run --application 127.0.0.1:$(PORT)

COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --no-header --no-annotate \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28
lock: setup ## Resolve pyproject.toml anew into deploy/requirements-{cpu,gpu}.txt
	@# uv does not read pip's configuration, so pip's find-links are handed to it.
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-$(TORCH_INDEX)/torch/}}" $(COMPILE) \
		--extra cpu --extra dev --excludes deploy/lock-excludes-cpu.txt -o deploy/requirements-cpu.txt
	UV_FIND_LINKS= $(COMPILE) \
		--extra gpu --extra embedded --extra dev --excludes deploy/lock-excludes-gpu.txt -o deploy/requirements-gpu.txt

docs-reference: setup ## Write docs/configuration.md from the typed settings
	$(PY) -m serve_app config-reference > docs/configuration.md

clean: ## Remove the environment and every cache of this folder
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
