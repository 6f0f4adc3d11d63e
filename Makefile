# Leat. `make deps` installs what is missing (Debian packages), `make` builds build/leat,
# `make run`, `make demo` and `make test` do the rest; `make help` lists the targets.
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules

B      ?= build
CC     := gcc
CLANG  ?= clang-14
LAYERS := base sql tenancy cluster node

# SQLCLIENT=libmariadb (MariaDB Connector/C) or mysqlclient (MySQL's own); SYSROOT for a foreign root.
SQLCLIENT ?= libmariadb
PKGS      := libevent libevent_openssl openssl jansson $(SQLCLIENT)
PKGCFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKGLIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARN     := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla \
            -Wpointer-arith -Wformat=2 -Wundef -Wwrite-strings
HARDEN   := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
OPT      ?= -O2 -D_FORTIFY_SOURCE=2
SAN      ?=
CPPFLAGS += -I. -D_GNU_SOURCE $(PKGCFLAGS) $(DEFS)
CFLAGS   += -std=c17 -g $(OPT) $(WARN) $(HARDEN) $(SAN)
LDFLAGS  += -pie -Wl,-z,relro,-z,now,-z,noexecstack $(SAN)
LDLIBS   := $(PKGLIBS) -lm -lpthread

SRCS := $(foreach d,$(LAYERS),$(wildcard $(d)/*.c))
OBJS := $(SRCS:%.c=$(B)/%.o)
# main.c is the program; everything else is its layer's archive.
obj_of = $(filter-out $(B)/node/main.o,$(filter $(B)/$(1)/%,$(OBJS)))
ARCHIVES := $(LAYERS:%=$(B)/lib%.a)
# The archives at or below a layer, in link order. cluster and tenancy are siblings.
BELOW_base    := base
BELOW_sql     := sql base
BELOW_tenancy := tenancy sql base
BELOW_cluster := cluster sql base
BELOW_node    := node cluster tenancy sql base
libs_of = $(foreach d,$(BELOW_$(1)),$(B)/lib$(d).a)

.PHONY: all
all: $(B)/leat

$(B)/leat: $(B)/node/main.o $(call libs_of,node)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

define archive_rule
$(B)/lib$(1).a: $(call obj_of,$(1)) ; @rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach d,$(LAYERS),$(eval $(call archive_rule,$(d))))

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# schema.c holds the schema steps by .incbin, which -MMD does not see.
$(B)/sql/schema.o: $(wildcard sql/schema/*)

-include $(OBJS:.o=.d)

# ---- tests -------------------------------------------------------------------------------------
# tests/unit/LAYER/test_NAME.c links only the archives at or below LAYER.
UNITS := $(patsubst tests/unit/%.c,$(B)/unit/%,$(wildcard tests/unit/*/test_*.c))

.PHONY: unit
unit: $(UNITS)
	@set -e; for t in $(UNITS); do echo "== $$t"; $$t; done

define unit_rule
$(B)/unit/$(1)/test_%: tests/unit/$(1)/test_%.c $(call libs_of,$(1))
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(LDFLAGS) -MMD -MP -o $$@ $$(filter %.c,$$^) $(call libs_of,$(1)) -lcmocka $$(LDLIBS)
endef
$(foreach d,$(LAYERS),$(eval $(call unit_rule,$(d))))
# One suite for every backend of the bus.
$(B)/unit/cluster/test_bus_memory: tests/bus_suite.c
-include $(UNITS:=.d)

# tests/integration/test_NAME.c links base and sql, and runs beside private database servers.
INTEGRATIONS := $(patsubst tests/integration/%.c,$(B)/integration/%,$(wildcard tests/integration/test_*.c))

.PHONY: integration
integration: $(INTEGRATIONS)
	@set -e; for t in $(INTEGRATIONS); do echo "== $$t"; tests/integration/with-server $$t; done

$(B)/integration/test_%: tests/integration/test_%.c $(call libs_of,sql)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -MMD -MP -o $@ $< $(call libs_of,sql) -lcmocka $(LDLIBS)
-include $(INTEGRATIONS:=.d)

# tests/fuzz/fuzz_NAME.c is a libFuzzer target over the whole program's archives.
FUZZERS := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 60
FUZZ_SAN := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined

.PHONY: fuzz
fuzz:
	$(MAKE) B=$(B)/fuzzing CC=$(CLANG) HARDEN= OPT="-O1" SAN="$(FUZZ_SAN)" fuzz-run

.PHONY: fuzz-run
fuzz-run: $(FUZZERS)
	@set -e; for f in $(FUZZERS); do n=$$(basename $$f); mkdir -p $(B)/corpus/$$n; \
	  echo "== $$n ($(FUZZ_SECONDS) s)"; \
	  $$f -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -timeout=5 -rss_limit_mb=1024 \
	    $(B)/corpus/$$n tests/fuzz/corpus/$$n 2>$(B)/$$n.log || { tail -40 $(B)/$$n.log; exit 1; }; \
	  tail -3 $(B)/$$n.log; done

$(B)/fuzz/%: tests/fuzz/%.c $(call libs_of,node)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $< $(call libs_of,node) $(LDLIBS)

.PHONY: format
format:
	clang-format -i $(shell git ls-files '*.c' '*.h')

.PHONY: clean
clean:
	rm -rf $(B)
