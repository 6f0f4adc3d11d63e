#include "node/cli/command.h"

#include "node/cli/admin_run.h"
#include "node/cli/key_file.h"
#include "node/cli/options.h"
#include "sql/conn.h"
#include "tenancy/registry.h"
#include "tenancy/tenant_admin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct tenant_options {
	const char *db, *kid, *alg, *key, *issuer;
	uint64_t weight, partitions;
	struct option_list names;
	struct slice name; /* names.v[0] */
};

#define FIELD(f) offsetof(struct tenant_options, f)

#define OPT_NAME                                                                           \
	{                                                                                  \
		"name", 0, OPTION_ARGS, FIELD(names), .arg = "NAME", .help = "the tenant", \
		                                      .min = 1, .max = 1                   \
	}
#define OPT_KID                                                                                    \
	{                                                                                          \
		"kid", 0, OPTION_TEXT, FIELD(kid),                                                 \
		        .arg = "KID", .help = "what tokens call the key", .flags = OPTION_REQUIRED \
	}
#define OPT_ISSUER                                                                                 \
	{                                                                                          \
		"issuer", 0, OPTION_TEXT, FIELD(issuer),                                           \
		        .arg = "ISSUER", .help = "iss claim of its tokens; else the tenant's name" \
	}

/* ---- the verbs: one transaction each ---- */

static struct slice issuer_of(const struct tenant_options *o)
{
	return o->issuer ? slice_str(o->issuer) : o->name;
}

static int tenant_create(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;
	struct tenant_admin_new t = {.name = o->name,
	                             .weight = (uint16_t)o->weight,
	                             .partitions = (uint16_t)o->partitions};
	uint32_t id;

	if (tenant_admin_create(c, &t, &id, e) < 0)
		return -1;
	printf("tenant %s created, id %" PRIu32 "; next: leat tenant key-add %s --kid K --key F\n",
	       o->names.v[0], id, o->names.v[0]);
	return 0;
}

static int set_state(struct sql_conn *c, const void *options, enum tenant_state state,
                     struct err *e)
{
	const struct tenant_options *o = options;

	if (tenant_admin_set_state(c, o->name, state, e) < 0)
		return -1;
	printf("tenant %s is %s; nodes follow within 2 s\n", o->names.v[0],
	       tenant_state_name(state));
	return 0;
}

static int tenant_suspend(struct sql_conn *c, const void *options, struct err *e)
{
	return set_state(c, options, TENANT_SUSPENDED, e);
}

static int tenant_resume(struct sql_conn *c, const void *options, struct err *e)
{
	return set_state(c, options, TENANT_ACTIVE, e);
}

static int tenant_delete(struct sql_conn *c, const void *options, struct err *e)
{
	return set_state(c, options, TENANT_DELETED, e);
}

static void print_tenant(void *arg, const struct tenant *t)
{
	(void)arg;
	printf("%-32s %10" PRIu32 " %-10s %6u %10u\n", t->name, t->id, tenant_state_name(t->state),
	       t->weight, t->partitions);
}

static int tenant_list(struct sql_conn *c, const void *options, struct err *e)
{
	(void)options;
	printf("%-32s %10s %-10s %6s %10s\n", "NAME", "ID", "STATE", "WEIGHT", "PARTITIONS");
	return tenant_admin_list(c, print_tenant, NULL, e);
}

static void print_limit(const char *name, uint64_t value)
{
	if (value)
		printf("%-20s %" PRIu64 "\n", name, value);
	else
		printf("%-20s default\n", name);
}

static int tenant_show(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;
	struct tenant_admin_row row;
	const struct tenant *t = &row.tenant;

	if (tenant_admin_find(c, o->name, &row, e) < 0)
		return -1;
	printf("%-20s %s\n%-20s %" PRIu32 "\n%-20s %s\n%-20s %s\n", "name", t->name, "id", t->id,
	       "state", tenant_state_name(t->state), "created_at", row.created_at);
	printf("%-20s %u\n%-20s %u\n", "weight", t->weight, "partitions", t->partitions);
	print_limit("max_connections", t->limits.max_connections);
	print_limit("max_events_per_s", t->limits.max_events_per_s);
	print_limit("max_bytes_per_s", t->limits.max_bytes_per_s);
	print_limit("max_event_bytes", t->limits.max_event_bytes);
	print_limit("max_subscriptions", t->limits.max_subscriptions);
	print_limit("max_stored_bytes", t->limits.max_stored_bytes);
	print_limit("max_backlog_events", t->limits.max_backlog_events);
	print_limit("retention_s", t->limits.retention_s);
	return 0;
}

static int key_add(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;
	struct tenant_admin_key k = {.issuer = issuer_of(o), .kid = slice_str(o->kid)};
	struct buf material = {0};
	int rc = -1;

	if (key_file_read(o->key, &material, e) == 0 &&
	    key_file_alg(o->alg, buf_slice(&material), &k.alg, e) == 0) {
		k.material = buf_slice(&material);
		rc = tenant_admin_key_add(c, o->name, &k, e);
	}
	key_file_release(&material);
	if (rc == 0)
		printf("key %s (%s) of issuer %.*s verifies tokens of tenant %s within 2 s\n",
		       o->kid, jws_alg_name(k.alg), (int)k.issuer.n, k.issuer.p, o->names.v[0]);
	return rc;
}

static void print_key(void *arg, const struct tenant_admin_key *k)
{
	(void)arg;
	printf("%-32.*s %-6s %-8s %-24.*s %.*s\n", (int)k->kid.n, k->kid.p, jws_alg_name(k->alg),
	       k->active ? "active" : "retired", (int)k->created_at.n, k->created_at.p,
	       (int)k->issuer.n, k->issuer.p);
}

static int key_list(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;

	printf("%-32s %-6s %-8s %-24s %s\n", "KID", "ALG", "STATE", "CREATED", "ISSUER");
	return tenant_admin_key_list(c, o->name, print_key, NULL, e);
}

static int key_retire(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;

	if (tenant_admin_key_retire(c, o->name, issuer_of(o), slice_str(o->kid), e) < 0)
		return -1;
	printf("key %s is retired; its tokens are refused and their connections end within 2 s\n",
	       o->kid);
	return 0;
}

/* ---- the table ---- */

static const struct option list_rows[] = {OPT_DB};
static const struct option name_rows[] = {OPT_NAME, OPT_DB};
static const struct option create_rows[] = {
        OPT_NAME,
        {"weight", 0, OPTION_NUMBER, FIELD(weight), .arg = "N",
         .help = "its share where tenants compete", .fallback = "1", .min = 1, .max = 1000},
        {"partitions", 0, OPTION_NUMBER, FIELD(partitions), .arg = "N",
         .help = "more than one for a tenant that is hotter than one partition can take",
         .fallback = "1", .min = 1, .max = 64},
        OPT_DB,
};
static const struct option key_add_rows[] = {
        OPT_NAME,
        OPT_KID,
        {"key", 0, OPTION_TEXT, FIELD(key), .arg = "FILE",
         .help = "public key (PEM), or the raw secret of an HS256 key", .flags = OPTION_REQUIRED},
        {"alg", 0, OPTION_TEXT, FIELD(alg), .arg = "ALG",
         .help = "HS256, RS256, PS256, ES256 or EdDSA; else what the key is for"},
        OPT_ISSUER,
        OPT_DB,
};
static const struct option key_retire_rows[] = {OPT_NAME, OPT_KID, OPT_ISSUER, OPT_DB};

static const struct admin_verb verbs[] = {
        {"create", tenant_create, {"tenant create", "make a tenant", OPTIONS_ROWS(create_rows)}},
        {"list", tenant_list, {"tenant list", "all tenants", OPTIONS_ROWS(list_rows)}},
        {"show",
         tenant_show,
         {"tenant show", "one tenant and its limits", OPTIONS_ROWS(name_rows)}},
        {"suspend",
         tenant_suspend,
         {"tenant suspend", "let nobody in, keep everything", OPTIONS_ROWS(name_rows)}},
        {"resume", tenant_resume, {"tenant resume", "end a suspension", OPTIONS_ROWS(name_rows)}},
        {"delete",
         tenant_delete,
         {"tenant delete", "let nobody in ever again; the name stays taken",
          OPTIONS_ROWS(name_rows)}},
        {"key-add",
         key_add,
         {"tenant key-add", "tokens this key signed are the tenant's", OPTIONS_ROWS(key_add_rows)}},
        {"key-list",
         key_list,
         {"tenant key-list", "the keys of a tenant", OPTIONS_ROWS(name_rows)}},
        {"key-retire",
         key_retire,
         {"tenant key-retire", "refuse a key's tokens from now on", OPTIONS_ROWS(key_retire_rows)}},
};

static int check(void *options, struct err *e)
{
	struct tenant_options *o = options;

	if (!o->names.n)
		return 0;
	o->name = slice_str(o->names.v[0]);
	return tenant_name_check(o->name, e);
}

int cmd_tenant(int argc, char **argv)
{
	struct tenant_options o = {0};
	struct admin_command command = {.name = "tenant",
	                                .operands = " [NAME]",
	                                .verbs = verbs,
	                                .n_verbs = sizeof verbs / sizeof *verbs,
	                                .options = &o,
	                                .db = &o.db,
	                                .check = check};

	return admin_run(&command, argc, argv);
}
