#include "tenancy/issuer_store.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "tenancy/issuer.h"
#include "tenancy/jwks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Enough to fill every place: as many rows may be under way already, and as many again be of
 * tenants who have all that they may under way. */
enum { DUE_MAX = 3 * ISSUER_FETCHES };

struct issuer_due {
	char *name, *url;
	uint64_t fetches, wanted; /* of the row as it was seen */
	uint32_t tenant_id;
};

struct due_job {
	void (*done)(void *arg, struct issuer_due **take, size_t n);
	void *arg;
	size_t n;
	struct issuer_due *rows[DUE_MAX];
};

struct put_job {
	struct issuer_due *due;
	void (*done)(void *arg);
	void *arg;
	struct buf body;
	char error[200]; /* "" = body is what was fetched */
	bool stored, changed;
};

const char *issuer_due_name(const struct issuer_due *d)
{
	return d->name;
}

const char *issuer_due_url(const struct issuer_due *d)
{
	return d->url;
}

uint32_t issuer_due_tenant(const struct issuer_due *d)
{
	return d->tenant_id;
}

void issuer_due_free(struct issuer_due *d)
{
	if (!d)
		return;
	free(d->name);
	free(d->url);
	free(d);
}

/* ---- who is due ---- */

static int on_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct due_job *j = arg;
	struct issuer_due *d = xcalloc(1, sizeof *d);

	(void)n;
	d->name = xstrndup(cells[0].bytes.p, cells[0].bytes.n);
	d->url = xstrndup(cells[1].bytes.p, cells[1].bytes.n);
	d->fetches = cells[2].u;
	d->wanted = cells[3].u;
	d->tenant_id = (uint32_t)cells[4].u;
	j->rows[j->n++] = d;
	return j->n == DUE_MAX;
}

static enum sql_outcome work_due(struct sql_conn *c, void *arg)
{
	struct sql_param params[] = {sql_u64(ISSUER_RETRY_S),
	                             sql_u64(ISSUER_RETRY_MAX_S),
	                             sql_u64(ISSUER_WANT_EVERY_S),
	                             sql_u64(ISSUER_REFRESH_S),
	                             sql_u64(ISSUER_FETCHES_ANY),
	                             sql_u64(ISSUER_FETCHES_TENANT),
	                             sql_u64(DUE_MAX)};

	return sql_query(c, STMT_ISSUER_DUE, params, sizeof params / sizeof *params, on_row, arg);
}

static void done_due(void *arg, enum sql_outcome outcome)
{
	struct due_job *j = arg;

	for (; outcome != SQL_OK && j->n; j->n--)
		issuer_due_free(j->rows[j->n - 1]);
	j->done(j->arg, j->rows, j->n);
	free(j);
}

int issuer_store_due(struct sql *s, void (*done)(void *arg, struct issuer_due **take, size_t n),
                     void *arg)
{
	struct due_job *j = xcalloc(1, sizeof *j);

	j->done = done;
	j->arg = arg;
	if (sql_submit(s, SQL_LANE_ADMIN, work_due, done_due, j) == 0)
		return 0;
	free(j);
	return -1;
}

/* ---- what came of it ---- */

static void put_job_free(struct put_job *j)
{
	issuer_due_free(j->due);
	buf_release(&j->body);
	free(j);
}

/* Is it good? What was left out of it is said beside it. */
static void judge(struct put_job *j)
{
	struct jwks *keys;
	struct err e;

	if (j->error[0])
		return;
	keys = jwks_parse(buf_slice(&j->body), &e);
	if (keys)
		snprintf(j->error, sizeof j->error, "%s", jwks_left_out(keys));
	else
		snprintf(j->error, sizeof j->error, "%.199s", e.text);
	buf_clear(&j->body);
	if (keys) /* what anybody may read, and nothing that was left out */
		jwks_put(keys, &j->body);
	jwks_free(keys);
}

static int on_jwks(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct put_job *j = arg;

	(void)n;
	j->changed = !slice_eq(buf_slice(&j->body), cells[0].bytes);
	return 1;
}

/* Are there other keys now? Read before they are stored: if they change in between, nothing is. */
static enum sql_outcome compare(struct sql_conn *c, struct put_job *j)
{
	struct sql_param name = sql_bytes(j->due->name, strlen(j->due->name));

	return j->body.len ? sql_query(c, STMT_ISSUER_JWKS, &name, 1, on_jwks, j) : SQL_OK;
}

/* Of the row that was due: what is there now may be another under its name, with another URL. */
static enum sql_outcome put(struct sql_conn *c, struct put_job *j)
{
	const struct issuer_due *d = j->due;
	struct sql_param params[] = {sql_utf8(j->body.data, j->body.len),
	                             sql_bytes(j->error, strlen(j->error)),
	                             sql_u64(d->wanted),
	                             sql_bytes(d->name, strlen(d->name)),
	                             sql_bytes(d->url, strlen(d->url)),
	                             sql_u64(d->fetches)};

	return j->body.len ? sql_exec(c, STMT_ISSUER_FETCHED, params, 6)
	                   : sql_exec(c, STMT_ISSUER_FAILED, params + 1, 5);
}

static enum sql_outcome work_put(struct sql_conn *c, void *arg)
{
	struct put_job *j = arg;
	enum sql_outcome o;

	judge(j);
	o = compare(c, j);
	if (o == SQL_OK)
		o = put(c, j);
	j->stored = o == SQL_OK && sql_affected(c) == 1;
	if (j->stored && j->changed)
		o = sql_exec(c, STMT_ISSUERS_BUMP, NULL, 0);
	return o == SQL_OK ? sql_commit(c) : o;
}

static void tell(const struct put_job *j, enum sql_outcome outcome)
{
	const char *name = log_quote_str(j->due->name);

	if (outcome != SQL_OK && outcome != SQL_RETRY)
		log_error("issuers", "issuer=%s outcome=%s its keys cannot be stored", name,
		          sql_outcome_name(outcome));
	else if (outcome != SQL_OK || !j->stored)
		log_info("issuers", "issuer=%s not stored: it will be fetched again", name);
	else if (!j->body.len)
		log_warn("issuers", "issuer=%s keys not fetched, the last good ones stay: %s", name,
		         j->error);
	else if (j->changed)
		log_info("issuers", "issuer=%s new keys%s%s", name, j->error[0] ? ": " : "",
		         j->error);
}

static void done_put(void *arg, enum sql_outcome outcome)
{
	struct put_job *j = arg;

	tell(j, outcome);
	j->done(j->arg);
	put_job_free(j);
}

int issuer_store_put(struct sql *s, struct issuer_due *d, struct slice body, const char *error,
                     void (*done)(void *arg), void *arg)
{
	struct put_job *j = xcalloc(1, sizeof *j);

	j->due = d;
	j->done = done;
	j->arg = arg;
	if (error)
		snprintf(j->error, sizeof j->error, "%.199s", error);
	else
		buf_append_slice(&j->body, body);
	if (sql_submit(s, SQL_LANE_ADMIN, work_put, done_put, j) == 0)
		return 0;
	put_job_free(j);
	return -1;
}
