#include "sql/transfer.h"

#include "base/clock.h"
#include "sql/migrate.h"
#include "sql/schema.h"
#include "sql/transfer_file.h"
#include "sql/transfer_walk.h"

#include <inttypes.h>
#include <stdio.h>

enum {
	MANY_MAX = 16,               /* records side by side, as in sql/transfer.def */
	MANY_BYTES_MAX = 512 * 1024, /* and no more bytes: the packet is bounded */
};

struct import {
	struct sql_conn *c;
	const struct transfer_request *req;
	struct transfer_report *report;
	struct transfer_file *f;
	struct buf payload;
	uint8_t source[TRANSFER_DIGEST]; /* of the first chunk */
	struct transfer_tenant tenant;
	bool whole; /* the file has its last chunk */
	bool without_keys;
	struct err *e;
};

static struct slice name_of(const struct import *m)
{
	return slice_str(m->report->name);
}

/* ---- the file ---- */

static int read_begin(struct import *m, const struct transfer_chunk *c)
{
	struct sql_param p[TRANSFER_COLUMNS_MAX];
	struct slice rest = buf_slice(&m->payload);
	struct slice name;

	if (c->kind != TRANSFER_BEGIN ||
	    transfer_record_take(&rest, TRANSFER_BEGIN_TYPES, p, m->e) < 0)
		return err_set(m->e, SQL_FATAL, "%s does not begin as an export does",
		               m->req->path);
	if (p[BEGIN_SCHEMA].u != schema_latest())
		return err_set(m->e, SQL_FATAL,
		               "%s is of schema version %" PRIu64 ", this leat's is %u: export with"
		               " the same version",
		               m->req->path, p[BEGIN_SCHEMA].u, schema_latest());
	name = m->req->name.n ? m->req->name : p[BEGIN_NAME].bytes;
	if (m->req->name_check(name, m->e) < 0)
		return -1;
	snprintf(m->report->name, sizeof m->report->name, "%.*s", (int)name.n, name.p);
	m->without_keys = p[BEGIN_WITHOUT_KEYS].u != 0;
	memcpy(m->source, c->digest, sizeof m->source);
	return 0;
}

/* Is it all there? What comes after the journal is of use only then. */
static int look_for_end(struct import *m)
{
	struct transfer_place place = transfer_file_place(m->f);
	struct transfer_chunk c = {0};
	int rc;

	while ((rc = transfer_file_next(m->f, &c, NULL, m->e)) > 0)
		m->whole = c.kind == TRANSFER_END;
	transfer_file_return(m->f, &place);
	return rc;
}

static int open_file(struct import *m)
{
	struct transfer_chunk c;
	int rc;

	m->f = transfer_file_open(m->req->path, false, m->e);
	if (!m->f)
		return -1;
	rc = transfer_file_next(m->f, &c, &m->payload, m->e);
	if (rc == 0)
		rc = err_set(m->e, SQL_FATAL, "%s is no export of a tenant", m->req->path);
	if (rc < 0 || read_begin(m, &c) < 0)
		return -1;
	return look_for_end(m);
}

/* ---- the tenant ---- */

static enum sql_outcome audit(struct import *m, const char *action, const struct transfer_sum *sum)
{
	char checksum[TRANSFER_SUM_HEX] = "";
	struct sql_param p[5] = {sql_u64(m->tenant.id), sql_utf8(action, strlen(action)),
	                         sql_utf8(m->report->name, strlen(m->report->name)),
	                         sql_u64(sum ? sum->rows : 0)};

	if (sum)
		transfer_sum_hex(sum, checksum);
	p[4] = sql_utf8(checksum, strlen(checksum));
	return sql_exec(m->c, STMT_ADMIN_MOVE_AUDIT, p, 5);
}

static int make_tenant(struct import *m)
{
	struct slice name = name_of(m);
	struct sql_param p[2] = {sql_bytes(name.p, name.n)};
	enum sql_outcome o = sql_exec(m->c, STMT_ADMIN_IMPORT_NEW, p, 1);

	if (o == SQL_OK) {
		m->tenant.id = (uint32_t)sql_insert_id(m->c);
		p[0] = sql_u64(m->tenant.id);
		p[1] = sql_bytes(m->source, sizeof m->source);
		o = sql_exec(m->c, STMT_ADMIN_IMPORT_BEGIN, p, 2);
	}
	if (o == SQL_OK)
		o = audit(m, "tenant_import_begin", NULL);
	if (o == SQL_OK)
		o = sql_exec(m->c, STMT_CHANGES_BUMP_ALL, NULL, 0);
	if (o == SQL_OK)
		o = sql_commit(m->c);
	return transfer_outcome(m->c, o, m->e);
}

static int find_or_make_tenant(struct import *m)
{
	struct transfer_tenant *t = &m->tenant;

	if (transfer_tenant_find(m->c, name_of(m), t, m->e) < 0)
		return -1;
	if (!t->id)
		return make_tenant(m);
	if (t->direction != TRANSFER_IN || memcmp(t->source, m->source, sizeof m->source) != 0)
		return err_set(
		        m->e, SQL_FATAL,
		        "there is a tenant %s, or was: names are never reused; --as gives another",
		        m->report->name);
	return 0;
}

/* ---- a chunk, in one transaction ---- */

struct group {
	struct sql_param params[MANY_MAX * TRANSFER_COLUMNS_MAX];
	unsigned rows;
	size_t bytes;
};

static enum sql_outcome put_group(struct import *m, const struct transfer_table *t,
                                  const struct group *g)
{
	unsigned columns = (unsigned)strlen(t->types);
	enum sql_outcome o = SQL_OK;

	if (g->rows && g->rows == t->many)
		return sql_exec(m->c, t->put_many, g->params, columns * g->rows);
	for (unsigned i = 0; o == SQL_OK && i < g->rows; i++)
		o = sql_exec(m->c, t->put, g->params + (size_t)i * columns, columns);
	return o;
}

static int put_rows(struct import *m, const struct transfer_table *t, uint32_t rows)
{
	struct group g = {.rows = 0};
	struct slice rest = buf_slice(&m->payload);
	size_t columns = strlen(t->types);
	enum sql_outcome o = SQL_OK;

	for (uint32_t i = 0; o == SQL_OK && i < rows; i++) {
		size_t before = rest.n;

		if (transfer_record_take(&rest, t->types, g.params + g.rows * columns, m->e) < 0)
			return -1;
		g.rows++;
		g.bytes += before - rest.n;
		if (g.rows < t->many && g.bytes < MANY_BYTES_MAX && i + 1 < rows)
			continue;
		o = put_group(m, t, &g);
		g.rows = 0;
		g.bytes = 0;
	}
	if (o == SQL_DUP && transfer_is_identity(t)) {
		sql_rollback(m->c);
		return err_set(m->e, SQL_FATAL,
		               "a key or certificate of this tenant is another's here, by issuer "
		               "and kid or"
		               " by fingerprint: remove that one, or export --without-keys");
	}
	return transfer_outcome(m->c, o, m->e);
}

/* The count first: it fences an import that goes on beside this one. */
static int count_chunk(struct import *m, uint32_t number)
{
	struct sql_param p[] = {sql_u64(m->tenant.id), sql_u64(number)};
	enum sql_outcome o = sql_exec(m->c, STMT_ADMIN_IMPORT_STORED, p, 2);
	char text[64];

	if (o == SQL_OK && sql_affected(m->c) != 1) {
		sql_rollback(m->c);
		return err_set(m->e, SQL_FATAL,
		               "another import of this file goes on, or the tenant was"
		               " deleted");
	}
	snprintf(text, sizeof text, "SET @leat_tenant=%" PRIu32, m->tenant.id);
	if (o == SQL_OK)
		o = sql_text(m->c, text, strlen(text), NULL, SQL_TEXT_PLAIN);
	return transfer_outcome(m->c, o, m->e);
}

static int store_chunk(struct import *m, const struct transfer_chunk *c)
{
	const struct transfer_table *t = transfer_table_of(c->kind);

	if (!t && c->kind != TRANSFER_BEGIN && c->kind != TRANSFER_SEAL && c->kind != TRANSFER_END)
		return err_set(m->e, SQL_FATAL, "%s: chunk %" PRIu32 " is of an unknown kind",
		               m->req->path, c->number);
	if (count_chunk(m, c->number) < 0 || (t && put_rows(m, t, c->rows) < 0))
		return -1;
	m->report->bytes += TRANSFER_HEADER + c->bytes;
	m->report->rows += c->rows;
	return transfer_outcome(m->c, sql_commit(m->c), m->e);
}

/* ---- the end ---- */

static int trim_partition(struct import *m, const struct transfer_head *h)
{
	struct sql_param p[] = {sql_u64(m->tenant.id), sql_u64(h->partition),
	                        sql_u64(h->first_seq)};
	enum sql_outcome o;

	do {
		o = sql_exec(m->c, STMT_ADMIN_IMPORT_TRIM, p, 3);
		if (o == SQL_OK)
			o = sql_commit(m->c);
	} while (o == SQL_OK && sql_affected(m->c));
	return transfer_outcome(m->c, o, m->e);
}

static int trim(struct import *m)
{
	struct transfer_heads heads = {0};
	int rc = transfer_heads_read(m->c, m->tenant.id, &heads, m->e);

	for (size_t i = 0; rc == 0 && i < heads.n; i++)
		rc = trim_partition(m, &heads.v[i]);
	transfer_heads_release(&heads);
	return rc;
}

static int verify(struct import *m, const struct transfer_chunk *end)
{
	struct transfer_sum found;
	char want[TRANSFER_SUM_HEX];
	char have[TRANSFER_SUM_HEX];

	if (trim(m) < 0 || transfer_walk_sum(m->c, m->tenant.id, m->without_keys, &found, m->e) < 0)
		return -1;
	m->report->sum = found;
	if (transfer_sum_eq(&found, &end->sum))
		return 0;
	transfer_sum_hex(&end->sum, want);
	transfer_sum_hex(&found, have);
	return err_set(m->e, SQL_FATAL,
	               "what is in the database now (%" PRIu64 " rows, %.16s) is not what was"
	               " exported (%" PRIu64 " rows, %.16s)",
	               found.rows, have, end->sum.rows, want);
}

static int on_count(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)n;
	*(uint64_t *)arg = cells[0].u;
	return 0;
}

/* As key_add and issuer_add see to it. */
static int check_issuers(struct import *m)
{
	struct sql_param id = sql_u64(m->tenant.id);
	uint64_t both = 0;
	enum sql_outcome o = sql_query(m->c, STMT_ADMIN_IMPORT_ISSUERS, &id, 1, on_count, &both);

	if (transfer_outcome(m->c, o, m->e) < 0)
		return -1;
	sql_rollback(m->c);
	if (both)
		return err_set(
		        m->e, SQL_FATAL,
		        "a key of this tenant is of an issuer that is an identity provider here:"
		        " retire that, or export --without-keys");
	return 0;
}

static int finish(struct import *m)
{
	struct sql_param id = sql_u64(m->tenant.id);
	enum sql_outcome o = sql_exec(m->c, STMT_ADMIN_IMPORT_END, &id, 1);

	if (o == SQL_OK)
		o = audit(m, "tenant_import", &m->report->sum);
	if (o == SQL_OK)
		o = sql_exec(m->c, STMT_CHANGES_BUMP_ALL, NULL, 0);
	if (o == SQL_OK)
		o = sql_commit(m->c);
	return transfer_outcome(m->c, o, m->e);
}

static int import_tenant(struct import *m)
{
	struct transfer_place start = {0};
	struct transfer_chunk c = {0};
	int rc;

	transfer_file_return(m->f, &start);
	while (c.kind != TRANSFER_END) {
		bool stored = start.number < m->tenant.chunks;

		rc = transfer_file_next(m->f, &c, stored ? NULL : &m->payload, m->e);
		if (rc <= 0)
			return rc;
		if (c.kind == TRANSFER_SEAL && !m->whole)
			return 0;
		if (!stored && store_chunk(m, &c) < 0)
			return -1;
		start = transfer_file_place(m->f);
	}
	if (m->tenant.move_complete) {
		m->report->before = m->report->complete = true;
		m->report->sum = c.sum;
		return 0;
	}
	if (check_issuers(m) < 0 || verify(m, &c) < 0 || finish(m) < 0)
		return -1;
	m->report->complete = true;
	return 0;
}

int transfer_import(struct sql_conn *c, const struct transfer_request *req,
                    struct transfer_report *out, struct err *e)
{
	struct import m = {.c = c, .req = req, .report = out, .e = e};
	uint64_t start_us = clock_us();
	int rc = -1;

	*out = (struct transfer_report){0};
	if (sql_schema_check(c, e) == 0 && open_file(&m) == 0 && find_or_make_tenant(&m) == 0)
		rc = import_tenant(&m);
	out->seconds = (double)(clock_us() - start_us) / 1e6;
	transfer_file_close(m.f);
	if (m.payload.data)
		explicit_bzero(m.payload.data, m.payload.cap);
	buf_release(&m.payload);
	return rc;
}
