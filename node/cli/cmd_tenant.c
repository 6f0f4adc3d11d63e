#include "node/cli/command.h"

#include "node/cli/admin_run.h"
#include "node/cli/admin_time.h"
#include "node/cli/key_file.h"
#include "node/cli/options.h"
#include "sql/conn.h"
#include "sql/transfer.h"
#include "tenancy/registry.h"
#include "tenancy/tenant_admin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct tenant_options {
	const char *db, *kid, *alg, *key, *issuer, *file, *as;
	const char *subject, *id, *before, *expires, *reason;
	bool suspend, without_keys, all, undo;
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
#define LIMIT_PRINT(column, type) print_limit(#column, t->limits.column);
	TENANT_LIMITS(LIMIT_PRINT)
#undef LIMIT_PRINT
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

/* ---- partitions ---- */

static void print_partition(void *arg, const struct tenant_admin_partition *p)
{
	bool *begun = arg;

	if (!*begun)
		printf("%9s %-6s %20s %20s %18s\n", "PARTITION", "STATE", "NEXT_SEQ",
		       "STORED_BYTES", "SUBSCRIPTIONS_LEFT");
	*begun = true;
	printf("%9" PRIu32 " %-6.*s %20" PRIu64 " %20" PRIu64 " %18" PRIu64 "\n", p->id,
	       (int)p->state.n, p->state.p, p->next_seq, p->stored_bytes, p->subscriptions_left);
}

static int tenant_partitions(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;
	bool begun = false;

	if (o->partitions &&
	    tenant_admin_set_partitions(c, o->name, (uint16_t)o->partitions, e) < 0)
		return -1;
	return tenant_admin_partitions(c, o->name, print_partition, &begun, e);
}

/* ---- tokens ---- */

static int take_time(const char *name, const char *value, char out[ADMIN_TIME_TEXT],
                     struct slice *time, struct err *e)
{
	if (!value)
		return 0;
	if (!admin_time(value, out))
		return err_set(e, SQL_FATAL, "--%s is a time like 2026-03-01T12:00:00Z, not %.40s",
		               name, value);
	*time = slice_str(out);
	return 0;
}

static int check_which(const struct tenant_options *o, struct err *e)
{
	if ((o->subject != NULL) + (o->id != NULL) + o->all != 1)
		return err_set(e, SQL_FATAL,
		               "give one of --subject SUBJECT, --id ID and --all: whose tokens");
	if (o->id && o->before)
		return err_set(e, SQL_FATAL,
		               "--before is for --subject and --all: --id is one token, "
		               "whenever it was issued");
	if (o->undo && (o->before || o->expires || o->reason))
		return err_set(e, SQL_FATAL,
		               "--undo takes back all of it: leave out --before, --expires, "
		               "--reason");
	return 0;
}

static int token_revoke(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;
	char before[ADMIN_TIME_TEXT], expires[ADMIN_TIME_TEXT];
	struct tenant_admin_revocation r = {.subject = slice_str(o->subject),
	                                    .id = slice_str(o->id),
	                                    .reason = slice_str(o->reason)};

	if (check_which(o, e) < 0 || take_time("before", o->before, before, &r.before, e) < 0 ||
	    take_time("expires", o->expires, expires, &r.expires, e) < 0 ||
	    (o->undo ? tenant_admin_revoke_undo : tenant_admin_revoke)(c, o->name, &r, e) < 0)
		return -1;
	printf(o->undo ? "these tokens of tenant %s are good again within 2 s\n"
	               : "these tokens of tenant %s are refused, and their connections end, within "
	                 "2 s\n",
	       o->names.v[0]);
	return 0;
}

/* ---- from one database to another ---- */

static void print_transfer(const struct transfer_report *r)
{
	double mb = (double)r->bytes / 1e6;

	printf("%" PRIu64 " rows, %.1f MB in %.1f s", r->rows, mb, r->seconds);
	if (r->bytes && r->seconds > 0)
		printf(" (%.0f MB/s)", mb / r->seconds);
	printf("\n");
}

static void print_checksum(const struct transfer_report *r)
{
	char hex[TRANSFER_SUM_HEX];

	transfer_sum_hex(&r->sum, hex);
	printf("checksum %s of %" PRIu64 " rows\n", hex, r->sum.rows);
}

static int tenant_export(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;
	struct transfer_request req = {.name = o->name,
	                               .path = o->file,
	                               .suspend = o->suspend,
	                               .without_keys = o->without_keys};
	struct transfer_report r;

	if (transfer_export(c, &req, &r, e) < 0)
		return -1;
	print_transfer(&r);
	if (!r.complete) {
		printf("tenant %s is in use: so far only its journal; run this again with --suspend"
		       " for the rest\n",
		       r.name);
		return 0;
	}
	printf(r.before ? "%s was complete already, and is what the tenant is\n"
	                : "%s is complete\n",
	       o->file);
	print_checksum(&r);
	return 0;
}

static int tenant_import(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;
	struct transfer_request req = {
	        .name = slice_str(o->as), .path = o->file, .name_check = tenant_name_check};
	struct transfer_report r;

	if (transfer_import(c, &req, &r, e) < 0)
		return -1;
	print_transfer(&r);
	if (!r.complete) {
		printf("%s is not complete yet: run this again when the export is\n", o->file);
		return 0;
	}
	print_checksum(&r);
	printf(r.before ? "tenant %s was complete already\n"
	                : "tenant %s is complete, verified and suspended; next: leat tenant "
	                  "resume\n",
	       r.name);
	return 0;
}

static int tenant_checksum(struct sql_conn *c, const void *options, struct err *e)
{
	const struct tenant_options *o = options;
	struct transfer_request req = {.name = o->name, .without_keys = o->without_keys};
	struct transfer_report r;

	if (transfer_checksum(c, &req, &r, e) < 0)
		return -1;
	print_checksum(&r);
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
         .help = "public key (PEM), the raw secret of an HS256 key, or either as a JWK",
         .flags = OPTION_REQUIRED},
        {"alg", 0, OPTION_TEXT, FIELD(alg), .arg = "ALG",
         .help = "HS256, RS256, PS256, ES256 or EdDSA; else what the key is for"},
        OPT_ISSUER,
        OPT_DB,
};
static const struct option key_retire_rows[] = {OPT_NAME, OPT_KID, OPT_ISSUER, OPT_DB};

#define OPT_WITHOUT_KEYS                                                                      \
	{                                                                                     \
		"without-keys", 0, OPTION_FLAG, FIELD(without_keys),                          \
		        .help = "leave out keys (and so every HS256 secret) and certificates" \
	}
#define OPT_FILE                                                                               \
	{                                                                                      \
		"file", 0, OPTION_TEXT, FIELD(file), .arg = "FILE",                            \
		                                     .help = "the tenant as one file; secret", \
		                                     .flags = OPTION_REQUIRED                  \
	}
static const struct option export_rows[] = {
        OPT_NAME,
        OPT_FILE,
        {"suspend", 0, OPTION_FLAG, FIELD(suspend),
         .help = "when its journal is copied, suspend the tenant and copy the rest"},
        OPT_WITHOUT_KEYS,
        OPT_DB,
};
static const struct option import_rows[] = {
        OPT_FILE,
        {"as", 0, OPTION_TEXT, FIELD(as), .arg = "NAME", .help = "its name here; else the old one"},
        OPT_DB,
};
static const struct option checksum_rows[] = {OPT_NAME, OPT_WITHOUT_KEYS, OPT_DB};

/* What is in somebody's environment changes no partitions and shuts nobody out. */
static const struct option partitions_rows[] = {
        OPT_NAME,
        {"partitions", 0, OPTION_NUMBER, FIELD(partitions), .arg = "N",
         .help = "so many from now on; else they are only listed", .min = 1, .max = 64,
         .flags = OPTION_NO_ENV},
        OPT_DB,
};
static const struct option revoke_rows[] = {
        OPT_NAME,
        {"subject", 0, OPTION_TEXT, FIELD(subject), .arg = "SUBJECT",
         .help = "tokens with this sub claim, and its client certificates", .flags = OPTION_NO_ENV},
        {"id", 0, OPTION_TEXT, FIELD(id), .arg = "ID", .help = "the token with this jti claim",
         .flags = OPTION_NO_ENV},
        {"all", 0, OPTION_FLAG, FIELD(all), .help = "every token of the tenant",
         .flags = OPTION_NO_ENV},
        {"before", 0, OPTION_TEXT, FIELD(before), .arg = "TIME",
         .help = "of these only what was issued before (2026-03-01T12:00:00Z); else until now",
         .flags = OPTION_NO_ENV},
        {"expires", 0, OPTION_TEXT, FIELD(expires), .arg = "TIME",
         .help = "when the last of them has expired by itself, and this may be forgotten",
         .flags = OPTION_NO_ENV},
        {"reason", 0, OPTION_TEXT, FIELD(reason), .arg = "TEXT", .help = "for people",
         .flags = OPTION_NO_ENV},
        {"undo", 0, OPTION_FLAG, FIELD(undo), .help = "they are good again",
         .flags = OPTION_NO_ENV},
        OPT_DB,
};

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
        {"token-revoke",
         token_revoke,
         {"tenant token-revoke", "refuse tokens that are not expired yet; their connections end",
          OPTIONS_ROWS(revoke_rows)}},
        {"partitions",
         tenant_partitions,
         {"tenant partitions", "where a tenant's events are, and how many places there are",
          OPTIONS_ROWS(partitions_rows)}},
        {"export",
         tenant_export,
         {"tenant export", "copy a tenant into a file, as often as need be, for another database",
          OPTIONS_ROWS(export_rows)}},
        {"import",
         tenant_import,
         {"tenant import", "make a tenant of such a file, suspended; go on with one begun",
          OPTIONS_ROWS(import_rows)}},
        {"checksum",
         tenant_checksum,
         {"tenant checksum", "the sum of all a tenant has: the same where it was moved to",
          OPTIONS_ROWS(checksum_rows)}},
};

/* A whole table is sorted before its first row comes, and a disk may be slow. */
static const struct sql_limits patient = {.wait_timeout_s = 600,
                                          .connect_timeout_s = 5,
                                          .io_timeout_s = 600,
                                          .lock_wait_s = 5,
                                          .ddl_wait_s = 5};

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
	                                .check = check,
	                                .limits = &patient};

	return admin_run(&command, argc, argv);
}
