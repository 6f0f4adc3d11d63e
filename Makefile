# Leat. `make run`, `make demo` and `make test` are the ways in and install what they need first;
# `make help` lists every target.
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash
# V=1 shows whole compiler lines.
Q := $(if $(V),,@)

B      ?= build
CC     := gcc
CLANG  ?= clang-14
JOBS   ?= $(shell nproc)
PREFIX ?= /usr/local
# Debian's Python, whose packages tests/deps installs, whatever else is first in PATH.
PYTHON ?= /usr/bin/python3
LAYERS := base sql tenancy cluster node

# SQLCLIENT=libmariadb (MariaDB Connector/C) or mysqlclient (MySQL's own). SYSROOT=DIR takes that
# client's headers and library from another root.
SQLCLIENT ?= libmariadb
SYSROOT   ?=
PKGS      := libevent libevent_openssl openssl jansson libcurl
SQLPKG    := $(if $(SYSROOT),PKG_CONFIG_SYSROOT_DIR=$(SYSROOT) PKG_CONFIG_LIBDIR=$(SYSROOT)/usr/lib/x86_64-linux-gnu/pkgconfig:$(SYSROOT)/usr/lib/pkgconfig )pkg-config
# Asked at first use, which is after `deps`, and once. The other root's libc headers come last, and
# its libraries may want a newer libc than this one: such a program is run with that root's.
PKGCFLAGS  = $(eval PKGCFLAGS := $$(patsubst -I$(SYSROOT)/usr/include,-idirafter$(SYSROOT)/usr/include,\
               $$(shell pkg-config --cflags $(PKGS); $(SQLPKG) --cflags $(SQLCLIENT))))$(PKGCFLAGS)
PKGLIBS    = $(eval PKGLIBS := $$(shell pkg-config --libs $(PKGS); $(SQLPKG) --libs-only-L --libs-only-l $(SQLCLIENT)))$(PKGLIBS)

WARN     := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla \
            -Wpointer-arith -Wformat=2 -Wundef -Wwrite-strings
HARDEN   := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
OPT      ?= -O2 -D_FORTIFY_SOURCE=2
SAN      ?=
# Two builds of one commit are the same bytes wherever they are made.
REPRO    := -ffile-prefix-map=$(CURDIR)=. -Wdate-time
CPPFLAGS += -I. -D_GNU_SOURCE $(PKGCFLAGS) $(DEFS)
CFLAGS   += -std=c17 -g $(OPT) $(WARN) $(HARDEN) $(REPRO) $(SAN)
LDFLAGS  += -pie -Wl,-z,relro,-z,now,-z,noexecstack $(SAN)
LDLIBS   := -lm -lpthread
ifneq ($(SYSROOT),)
LDLIBS   += -Wl,--allow-shlib-undefined
endif

SRCS := $(sort $(shell find $(LAYERS) -name "*.c"))
OBJS := $(SRCS:%.c=$(B)/%.o)
# main.c is the program; everything else is its layer's archive.
obj_of = $(filter-out $(B)/node/main.o,$(filter $(B)/$(1)/%,$(OBJS)))
# The archives at or below a layer, in link order. cluster and tenancy are siblings.
BELOW_base    := base
BELOW_sql     := sql base
BELOW_tenancy := tenancy sql base
BELOW_cluster := cluster sql base
BELOW_node    := node cluster tenancy sql base
libs_of = $(foreach d,$(BELOW_$(1)),$(B)/lib$(d).a)

.PHONY: all
all: $(B)/leat ## build build/leat

$(B)/leat: $(B)/node/main.o $(call libs_of,node)
	$(if $(V),,@echo "  LD $@")
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(PKGLIBS) $(LDLIBS)

define archive_rule
$(B)/lib$(1).a: $(call obj_of,$(1)) ; @rm -f $$@ && ar rcsD $$@ $$^
endef
$(foreach d,$(LAYERS),$(eval $(call archive_rule,$(d))))

$(B)/%.o: %.c | deps-build
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC $<")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# schema.c holds the schema steps by .incbin, which -MMD does not see.
$(B)/sql/schema.o: $(wildcard sql/schema/*)

-include $(OBJS:.o=.d)

.PHONY: install
install: $(B)/leat ## install to DESTDIR and PREFIX (/usr/local)
	install -D -m 0755 $(B)/leat $(DESTDIR)$(PREFIX)/bin/leat
	install -D -m 0644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/leat/LICENSE
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/leat README.md docs/*.md

# ---- what the targets need from Debian ----------------------------------------------------------
.PHONY: deps
deps: ## install what is missing from Debian's packages (the targets call it themselves)
	@tests/deps build run test check fuzz bench mosquitto nats rabbitmq

.PHONY: deps-%
deps-%:
	@tests/deps $*

# ---- running ------------------------------------------------------------------------------------
.PHONY: run
run: deps-run $(B)/leat ## a private MariaDB, a node, tenant demo, events flowing; Ctrl-C ends all
	@LEAT_BIN=$(abspath $(B)/leat) tests/demo/run

.PHONY: demo
demo: deps-run $(B)/leat ## two tenants, 10,000 events each, checked with SQL; ends by itself
	@LEAT_BIN=$(abspath $(B)/leat) tests/demo/demo

# ---- tests --------------------------------------------------------------------------------------
# tests/unit/LAYER/test_NAME.c and tests/integration/[LAYER/]test_NAME.c link only the archives at or
# below LAYER (sql where none is named). An integration test runs beside private database servers.
UNITS        := $(patsubst tests/%.c,$(B)/%,$(wildcard tests/unit/*/test_*.c))
INTEGRATIONS := $(patsubst tests/%.c,$(B)/%,$(wildcard tests/integration/test_*.c \
                  tests/integration/*/test_*.c))
# End-to-end tests wait more than they work: four files at a time use less than a core. Of Galera each
# has three servers.
E2E_JOBS     ?= $(if $(filter galera,$(ENGINE)),2,4)
PYTEST        = $(PYTHON) -m pytest -p no:cacheprovider -n $(E2E_JOBS) --dist loadfile tests/e2e

# The database of the integration and end-to-end tests: mariadb, mysql (MYSQL_ROOT: where Debian sid
# with it is, made at first use) or galera.
ENGINE ?= mariadb
export LEAT_ENGINE := $(ENGINE)

.PHONY: test-mysql
test-mysql: ## the same as `make test`, on MySQL
	@$(MAKE) --no-print-directory test ENGINE=mysql

.PHONY: test-galera
test-galera: ## the same on a Galera of three members
	@$(MAKE) --no-print-directory test ENGINE=galera

.PHONY: test
test: deps-test deps-$(ENGINE) ## unit, integration and end-to-end tests
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) all $(UNITS) $(INTEGRATIONS)
	@$(MAKE) --no-print-directory unit integration
	@$(MAKE) --no-print-directory e2e
	@echo "make test: everything passed"

.PHONY: unit
unit: $(UNITS) ## the unit tests alone
	@tests/run-cmocka unit $(UNITS)

.PHONY: integration
integration: deps-$(ENGINE) $(INTEGRATIONS) ## C tests beside private database servers
	@TEST_SECONDS=$(if $(filter galera,$(ENGINE)),300,120) RUN_WITH=tests/integration/with-server tests/run-cmocka integration $(INTEGRATIONS)

# E2E_MARKS chooses by marker, PYTEST_ARGS adds to the command line: PYTEST_ARGS="-k share"
E2E_MARKS ?= not kill and not slow
.PHONY: e2e
e2e: deps-test deps-$(ENGINE) $(B)/leat ## end-to-end tests with real clients and servers
	@LEAT_BIN=$(abspath $(B)/leat) NODE_PATH=/usr/share/nodejs $(PYTEST) -m "$(E2E_MARKS)" \
	  $(PYTEST_ARGS)

SEEDS ?= 2000
SIMS  := $(B)/unit/cluster/test_sim $(B)/unit/node/test_sim_node $(B)/unit/node/test_sim_queue

.PHONY: simulate
simulate: $(SIMS) ## the fault simulator: SEEDS=N seeds over the memory backend
	@set -e; for t in $(SIMS); do $$t --seeds $(SEEDS); done

.PHONY: sim
sim: simulate

# Each seeded bug (base/bug.h) must be caught by the simulator within 20 seeds.
SEEDED_BUGS := ack-before-commit dispatch-before-confirmed unknown-plain-look cursor-without-commit-no
# Those that take several nodes, which are many times as rare.
NODE_BUGS   := dispatch-before-confirmed look-is-confirmed

.PHONY: sim-bugs
sim-bugs: ## the simulator proves itself: seeded bugs are caught within 20 seeds
	@$(MAKE) --no-print-directory B=$(B)/bugs DEFS=-DLEAT_SEEDED_BUGS $(SIMS:$(B)/%=$(B)/bugs/%)
	@set -e; for bug in $(SEEDED_BUGS); do \
	  if out=$$(LEAT_BUG=$$bug $(B)/bugs/unit/cluster/test_sim --seeds 20 2>&1); \
	  then echo "$$bug: NOT caught"; exit 1; fi; \
	  echo "$$bug: caught, $$(grep -o 'seed [0-9]*: .*' <<<"$$out" | head -1)"; done; \
	for bug in $(NODE_BUGS); do \
	  if out=$$(LEAT_BUG=$$bug $(B)/bugs/unit/node/test_sim_node --seeds 500 2>&1); \
	  then echo "$$bug: NOT caught by nodes"; exit 1; fi; \
	  echo "$$bug: caught, nodes' $$(grep -o 'seed [0-9]*: .*' <<<"$$out" | head -1)"; done

.PHONY: model
model: deps-model ## the protocol models: spin proves them, and finds every seeded error
	@tests/model/run

KILLS ?= 100

.PHONY: kill-test
kill-test: deps-test $(B)/leat ## KILLS=100 random kills of node, database and clients; nothing is lost
	@LEAT_BIN=$(abspath $(B)/leat) KILLS=$(KILLS) tests/kill/run

# Each seeded bug that a kill can hit must be caught within 20 runs; for the others see sim-bugs.
KILL_BUGS := ack-before-commit dispatch-before-confirmed
SLOWLOG   := $(B)/bugs/slowlog.so

.PHONY: kill-bugs
kill-bugs: deps-test $(SLOWLOG) ## the kill test proves itself: seeded bugs are caught within 20 runs
	@$(MAKE) --no-print-directory B=$(B)/bugs DEFS=-DLEAT_SEEDED_BUGS $(B)/bugs/leat
	@set -e; for bug in $(KILL_BUGS); do \
	  LEAT_BIN=$(abspath $(B)/bugs/leat) tests/kill/run --bug $$bug --kills 20 \
	    $$([ $$bug != dispatch-before-confirmed ] || echo --slow-log $(SLOWLOG)); done

# The build with seeded bugs and named points, for faults (base/bug.h, base/point.h).
.PHONY: bugs-build
bugs-build: | deps-build
	@$(MAKE) --no-print-directory B=$(B)/bugs DEFS=-DLEAT_SEEDED_BUGS $(B)/bugs/leat

MINUTES    ?= 5
WORLDS     ?= 2
FULL_DISK  := $(B)/bugs/full_disk.so
CLOCK      := $(B)/bugs/clock.so
CHAOS      := LEAT_BIN=$(abspath $(B)/bugs/leat) tests/chaos/run --full-disk $(FULL_DISK) --clock $(CLOCK)
CHAOS_ARGS ?=

.PHONY: chaos
chaos: deps-test deps-chaos deps-$(ENGINE) bugs-build $(FULL_DISK) $(CLOCK) ## three nodes under faults, for MINUTES=5 or FAULTS=N of them, WORLDS=2 at once
	@$(CHAOS) --worlds $(WORLDS) $(if $(FAULTS),--faults $(FAULTS),--minutes $(MINUTES)) $(CHAOS_ARGS)

# Each must be caught within 20 runs; what processes cannot be made to show, sim-bugs catches.
CHAOS_BUGS := ack-before-commit append-unfenced claim-live-owner end-at-first-look \
              no-self-fencing claim-from-behind leader-unchecked \
              retry-early dead-letter-cut dead-letter-lost tick-again will-after-connack will-anew \
              inbox-twice gap-untold gap-told-once newest-first key-not-held timer-lost never-resumed

.PHONY: chaos-bugs
chaos-bugs: deps-test deps-chaos bugs-build $(FULL_DISK) $(CLOCK) ## the chaos suite proves itself: seeded bugs are caught within 20 runs
	@$(MAKE) --no-print-directory -j$(WORLDS) -O $(CHAOS_BUGS:%=chaos-bug-%)

.PHONY: chaos-bug-%
chaos-bug-%:
	@$(CHAOS) --bug $* --minutes 0.5

$(B)/bugs/%.so: tests/chaos/%.c
	@mkdir -p $(@D)
	$(Q)$(CC) -O2 -shared -fPIC $(WARN) -o $@ $< -ldl

# BENCH_ARGS="--servers leat,mosquitto --json FILE"; tests/bench/run --help lists them.
.PHONY: fairness
fairness: deps-bench bugs-build ## a quiet tenant beside one that floods, place by place; and with fairness off
	@LEAT_BIN=$(abspath $(B)/bugs/leat) tests/bench/fairness $(FAIRNESS_ARGS)

.PHONY: bench
bench: deps-bench $(B)/leat ## the same work on Leat, mosquitto, NATS and RabbitMQ
	@LEAT_BIN=$(abspath $(B)/leat) tests/bench/run $(BENCH_ARGS)

.PHONY: scale
scale: deps-bench $(B)/leat ## 10,000 idle connections, 10,000 tenants, idle and all publishing: memory of each, latency
	@LEAT_BIN=$(abspath $(B)/leat) tests/scale/run $(SCALE_ARGS)

.PHONY: scale-cluster
scale-cluster: deps-bench $(B)/leat ## 10,000 tenants with 3 subscriptions each on 3 nodes: cost, hand-over
	@LEAT_BIN=$(abspath $(B)/leat) tests/scale/cluster $(SCALE_ARGS)

# $(1) the test's path without its name, $(2) its layer.
define test_rule
$(B)/$(1)/test_%: tests/$(1)/test_%.c $(call libs_of,$(2)) | deps-test
	@mkdir -p $$(@D)
	$(if $(V),,@echo "  TEST $$@")
	$$(Q)$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(LDFLAGS) -MMD -MP -o $$@ $$(filter %.c,$$^) \
	  $(call libs_of,$(2)) -lcmocka $$(PKGLIBS) $$(LDLIBS)
endef
$(foreach d,$(LAYERS),$(eval $(call test_rule,unit/$(d),$(d))))
$(foreach d,$(LAYERS),$(eval $(call test_rule,integration/$(d),$(d))))
$(eval $(call test_rule,integration,sql))
$(B)/unit/node/test_dispatch $(B)/unit/node/test_sessions $(B)/unit/node/test_churn $(B)/unit/node/test_queue \
  $(B)/unit/node/test_backlog $(B)/unit/node/test_claiming: tests/unit/node/rig.c
# One suite for every backend of the bus.
$(B)/unit/cluster/test_bus_memory $(B)/unit/cluster/test_bus_sim $(B)/integration/cluster/test_bus_sql: tests/bus_suite.c \
  tests/bus_suite_leader.c tests/bus_suite_inbox.c tests/bus_suite_retention.c \
  tests/bus_suite_layouts.c
$(SIMS): tests/sim_main.c
$(B)/unit/cluster/test_sim: tests/sim_history.c
$(B)/unit/node/test_sim_node: tests/sim_history.c tests/unit/node/mesh.c tests/unit/node/sim_loop.c
$(B)/unit/node/test_anywhere: tests/unit/node/mesh.c tests/unit/node/sim_loop.c
$(B)/unit/node/test_sim_queue: tests/unit/node/mesh.c tests/unit/node/sim_loop.c
-include $(UNITS:=.d) $(INTEGRATIONS:=.d)

# Sanitizers: the same sources in build/asan and build/tsan. Reports of programs that the tests start
# go to files, so none is missed: any file there is a failure.
ASAN_SAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
TSAN_SAN := -fsanitize=thread -fno-omit-frame-pointer
SAN_OPT  := -O1

SANITIZED_E2E ?= yes

.PHONY: asan
asan: ## unit, integration and e2e tests under AddressSanitizer and UBSan
	@SANITIZED_E2E=$(SANITIZED_E2E) tests/check/sanitized asan $(MAKE) B=build/asan OPT="$(SAN_OPT)" SAN="$(ASAN_SAN)"

.PHONY: tsan
tsan: ## the same under ThreadSanitizer (SANITIZED_E2E=no: without the e2e tests)
	@SANITIZED_E2E=$(SANITIZED_E2E) tests/check/sanitized tsan $(MAKE) B=build/tsan OPT="$(SAN_OPT)" SAN="$(TSAN_SAN)"

# tests/fuzz/fuzz_NAME.c is a libFuzzer target over the whole program's archives.
FUZZERS := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 60
FUZZ_SAN := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined

.PHONY: fuzz
fuzz: deps-build deps-fuzz ## every fuzz target for FUZZ_SECONDS (60), two at a time
	@$(MAKE) --no-print-directory B=$(B)/fuzzing CC=$(CLANG) HARDEN= OPT="-O1" SAN="$(FUZZ_SAN)" \
	  fuzz-run

.PHONY: fuzz-run
fuzz-run: $(FUZZERS)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run $(B) $(FUZZERS)

$(B)/fuzz/%: tests/fuzz/%.c $(call libs_of,node)
	@mkdir -p $(@D)
	$(if $(V),,@echo "  FUZZ $@")
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(call libs_of,node) \
	  $(PKGLIBS) $(LDLIBS)

# ---- static checks ------------------------------------------------------------------------------
TIDY_SRCS := $(SRCS) $(wildcard tests/*.c tests/*/*.c tests/*/*/*.c)
TIDY_OKS  := $(TIDY_SRCS:%=$(B)/tidy/%.ok)
C_FILES    = $(shell git ls-files '*.c' '*.h')
SCRIPTS    = $(shell git ls-files | xargs grep -lE '^\#!(/bin/(ba)?sh|/usr/bin/env bash)' /dev/null)
CHECKS    := check-tidy check-cppcheck check-format check-layers check-words check-sql \
             check-scripts check-docs

.PHONY: check $(CHECKS)
check: deps-build deps-check ## clang-tidy, cppcheck, format, layers, words, SQL, scripts, docs
	@$(MAKE) --no-print-directory -k -j$(JOBS) $(CHECKS)
	@echo "make check: clean"

check-tidy: $(TIDY_OKS)
	@echo "check-tidy: clean"

# A file is looked at again when it, any header or table, or the settings changed.
$(B)/tidy/%.ok: % .clang-tidy tests/.clang-tidy $(shell find $(LAYERS) -name "*.h" -o -name "*.def") | deps-check
	@mkdir -p $(@D)
	@clang-tidy-14 --quiet $< -- $(CPPFLAGS) -std=c17 2>$@.err >$@.out || \
	  { cat $@.out; grep -v 'warnings generated' $@.err; false; }
	@touch $@

check-cppcheck:
	@cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr --enable=warning,portability \
	  --suppress=missingIncludeSystem --suppress=arrayIndexOutOfBoundsCond --suppress=ctuuninitvar --suppress='*:/usr/*' -I. -D_GNU_SOURCE -D__GNUC__ \
	  --include=$(firstword $(wildcard /usr/include/*/sys/queue.h)) \
	  --cppcheck-build-dir=$$(mkdir -p $(B)/cppcheck && echo $(B)/cppcheck) -j2 $(SRCS)
	@echo "check-cppcheck: clean"

check-format:
	@clang-format-14 --dry-run $(C_FILES) 2>&1 | sed -nE 's/^([^: ]+):[0-9]+:.*clang-format-violations.*/\1: make format/p' | \
	  sort | uniq -c | { ! grep .; }
	@echo "check-format: clean"

check-layers:
	@$(PYTHON) tests/check/layers --self-test
	@$(PYTHON) tests/check/layers

check-words:
	@tests/check/words

check-sql:
	@tests/check/sql

check-scripts:
	@shellcheck -x $(SCRIPTS)
	@echo "check-scripts: clean"

check-docs: $(B)/leat
	@$(PYTHON) tests/check/docs $(B)/leat

.PHONY: docs
docs: $(B)/leat ## write docs/cli.md anew from --help
	@$(PYTHON) tests/check/docs $(B)/leat --write

.PHONY: format
format: ## clang-format every C file in place
	clang-format-14 -i $(C_FILES)

.PHONY: clean
clean: ## remove everything built
	rm -rf $(B)

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s'|'
