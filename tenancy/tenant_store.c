#include "tenancy/tenant_store.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "tenancy/certificate.h"
#include "tenancy/tenant_admin.h"

#include <event2/event.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct tenant_store {
	struct sql *sql;
	struct registry *registry;
	struct event *timer;
	void (*on_ready)(void *arg);
	void *arg;
	uint64_t changes;      /* the counters at the last load: of tenants and keys, */
	uint64_t revocations;  /* of revocations, */
	uint64_t issuers;      /* of identity providers, */
	uint64_t certificates; /* and of certificates */
	uint64_t loaded_ms;    /* by clock_us(); 0 = never */
	uint64_t asked_ms;     /* the job began, by clock_us() */
	uint64_t rest_ms;      /* no other before this */
	bool busy;             /* a job is under way */
	bool freed;            /* and is the last to hold the store */
};

/* A key as it lies in load.bytes: issuer, kid, material, end to end. */
struct load_key {
	uint32_t tenant_id;
	enum jws_alg alg;
	size_t at;
	uint32_t issuer_len, kid_len, material_len;
};

/* The job: filled in on a worker, applied on the loop. */
struct load {
	struct tenant_store *store;
	uint64_t seen, seen_revocations, seen_issuers,
	        seen_certificates; /* the counters at the last load */
	bool whole;                /* read the rows whatever the counters say */
	bool rows_read;            /* there are tenants and keys to apply */
	uint64_t changes, revocations, issuers, certificates;
	struct certificate_set *certificate_set; /* NULL = as before */
	struct revocation_set *revoked;          /* NULL = as before */
	struct issuer_set *issuer_set;           /* likewise */
	char wanted[ISSUER_SETTING_MAX + 1]; /* an issuer whose keys are to be fetched; "" = none */
	struct tenant *tenants;
	size_t tenant_count, tenant_cap;
	struct load_key *keys;
	size_t key_count, key_cap;
	struct buf bytes;
};

/* ---- on the worker ---- */

static int on_counter(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct load *l = arg;

	(void)n;
	l->changes = cells[0].u;
	l->revocations = cells[1].u;
	l->issuers = cells[2].u;
	l->certificates = cells[3].u;
	return 0;
}

static int on_tenant(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct load *l = arg;

	if (l->tenant_count == l->tenant_cap) {
		l->tenant_cap = l->tenant_cap ? 2 * l->tenant_cap : 64;
		l->tenants = xrealloc(l->tenants, l->tenant_cap * sizeof *l->tenants);
	}
	if (tenant_admin_parse_row(cells, n, &l->tenants[l->tenant_count]))
		l->tenant_count++;
	else
		log_warn("tenant_store", "tenant=%" PRIu64 " left out: name=%s", cells[0].u,
		         log_quote(cells[1].bytes.p, cells[1].bytes.n));
	return 0;
}

static int on_key(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct load *l = arg;
	struct load_key k = {.tenant_id = (uint32_t)cells[2].u,
	                     .at = l->bytes.len,
	                     .issuer_len = (uint32_t)cells[0].bytes.n,
	                     .kid_len = (uint32_t)cells[1].bytes.n,
	                     .material_len = (uint32_t)cells[4].bytes.n};

	(void)n;
	if (jws_alg_parse(cells[3].bytes, &k.alg) < 0) {
		log_warn("tenant_store", "tenant=%" PRIu32 " key left out: alg=%s", k.tenant_id,
		         log_quote(cells[3].bytes.p, cells[3].bytes.n));
		return 0;
	}
	buf_append_slice(&l->bytes, cells[0].bytes);
	buf_append_slice(&l->bytes, cells[1].bytes);
	buf_append_slice(&l->bytes, cells[4].bytes);
	if (l->key_count == l->key_cap) {
		l->key_cap = l->key_cap ? 2 * l->key_cap : 64;
		l->keys = xrealloc(l->keys, l->key_cap * sizeof *l->keys);
	}
	l->keys[l->key_count++] = k;
	return 0;
}

static int on_revocation(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct load *l = arg;
	struct revocation_row row = {.tenant_id = (uint32_t)cells[0].u,
	                             .kind = (enum revocation_kind)cells[1].u,
	                             .name = cells[2].bytes,
	                             .before_s = cells[3].u};

	(void)n;
	if (!revocation_set_add(l->revoked, &row))
		log_warn("tenant_store", "tenant=%" PRIu32 " revocation left out: kind=%" PRIu64,
		         row.tenant_id, cells[1].u);
	return 0;
}

static enum sql_outcome load_tenants(struct sql_conn *c, struct load *l)
{
	enum sql_outcome o = sql_query(c, STMT_TENANT_LIST, NULL, 0, on_tenant, l);

	if (o == SQL_OK)
		o = sql_query(c, STMT_TENANT_KEY_LIST, NULL, 0, on_key, l);
	l->rows_read = o == SQL_OK;
	return o;
}

static enum sql_outcome load_revocations(struct sql_conn *c, struct load *l)
{
	enum sql_outcome o;

	l->revoked = revocation_set_new();
	o = sql_query(c, STMT_REVOCATION_LIST, NULL, 0, on_revocation, l);
	revocation_set_seal(l->revoked);
	return o;
}

static int on_issuer(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct load *l = arg;

	(void)n;
	issuer_set_add(l->issuer_set, &(struct issuer_row){.issuer = cells[0].bytes,
	                                                   .audience = cells[1].bytes,
	                                                   .tenant_claim = cells[2].bytes,
	                                                   .tenant_id = (uint32_t)cells[3].u,
	                                                   .subject_claim = cells[4].bytes,
	                                                   .permissions = cells[5].bytes,
	                                                   .jwks = cells[6].bytes});
	return 0;
}

static enum sql_outcome load_issuers(struct sql_conn *c, struct load *l)
{
	l->issuer_set = issuer_set_new();
	return sql_query(c, STMT_ISSUER_LIST, NULL, 0, on_issuer, l);
}

static int on_certificate(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct load *l = arg;

	(void)n;
	certificate_set_add(l->certificate_set,
	                    &(struct certificate_row){.fingerprint = cells[0].bytes,
	                                              .tenant_id = (uint32_t)cells[1].u,
	                                              .subject = cells[2].bytes,
	                                              .acl = cells[3].bytes});
	return 0;
}

static enum sql_outcome load_certificates(struct sql_conn *c, struct load *l)
{
	l->certificate_set = certificate_set_new();
	return sql_query(c, STMT_CERTIFICATE_LIST, NULL, 0, on_certificate, l);
}

/* Whoever has the role fetches them; if this is lost, the next such token asks again. */
static enum sql_outcome want_issuer(struct sql_conn *c, const struct load *l)
{
	struct sql_param issuer = sql_bytes(l->wanted, strlen(l->wanted));
	enum sql_outcome o = sql_exec(c, STMT_ISSUER_WANT, &issuer, 1);

	return o == SQL_OK ? sql_commit(c) : o;
}

/* The counters first: what changes after they were read is seen by the next look. */
static enum sql_outcome load_work(struct sql_conn *c, void *job)
{
	struct load *l = job;
	enum sql_outcome o = l->wanted[0] ? want_issuer(c, l) : SQL_OK;

	if (o == SQL_OK)
		o = sql_query(c, STMT_CHANGES_READ, NULL, 0, on_counter, l);
	if (o == SQL_OK && (l->whole || l->changes != l->seen))
		o = load_tenants(c, l);
	if (o == SQL_OK && (l->whole || l->revocations != l->seen_revocations))
		o = load_revocations(c, l);
	if (o == SQL_OK && (l->whole || l->issuers != l->seen_issuers))
		o = load_issuers(c, l);
	if (o == SQL_OK && (l->whole || l->certificates != l->seen_certificates))
		o = load_certificates(c, l);
	return o;
}

/* ---- on the loop ---- */

static void load_free(struct load *l)
{
	if (l->bytes.data)
		explicit_bzero(l->bytes.data, l->bytes.len);
	buf_release(&l->bytes);
	revocation_set_free(l->revoked);
	issuer_set_free(l->issuer_set);
	certificate_set_free(l->certificate_set);
	free(l->tenants);
	free(l->keys);
	free(l);
}

static void apply_tenants(struct tenant_store *ts, const struct load *l)
{
	struct registry_key_row *rows = xcalloc(l->key_count + 1, sizeof *rows);

	for (size_t i = 0; i < l->key_count; i++) {
		const struct load_key *k = &l->keys[i];
		const char *p = l->bytes.data + k->at;

		rows[i] = (struct registry_key_row){
		        .tenant_id = k->tenant_id,
		        .alg = k->alg,
		        .issuer = slice(p, k->issuer_len),
		        .kid = slice(p + k->issuer_len, k->kid_len),
		        .material = slice(p + k->issuer_len + k->kid_len, k->material_len)};
	}
	registry_apply(ts->registry, l->tenants, l->tenant_count, rows, l->key_count);
	free(rows);
	if (!ts->loaded_ms || ts->changes != l->changes)
		log_info("tenant_store", "changes=%" PRIu64 " tenants=%zu keys=%zu loaded",
		         l->changes, l->tenant_count, l->key_count);
	ts->changes = l->changes;
}

static void apply_revocations(struct tenant_store *ts, struct load *l)
{
	if (ts->revocations != l->revocations)
		log_info("tenant_store", "revocations=%zu loaded",
		         revocation_set_count(l->revoked));
	ts->revocations = l->revocations;
	registry_take_revocations(ts->registry, l->revoked);
	l->revoked = NULL;
}

static void apply_issuers(struct tenant_store *ts, struct load *l)
{
	if (ts->issuers != l->issuers)
		log_info("tenant_store", "issuers=%zu loaded", issuer_set_count(l->issuer_set));
	ts->issuers = l->issuers;
	registry_take_issuers(ts->registry, l->issuer_set);
	l->issuer_set = NULL;
}

static void apply_certificates(struct tenant_store *ts, struct load *l)
{
	if (ts->certificates != l->certificates)
		log_info("tenant_store", "certificates=%zu loaded",
		         certificate_set_count(l->certificate_set));
	ts->certificates = l->certificates;
	registry_take_certificates(ts->registry, l->certificate_set);
	l->certificate_set = NULL;
}

static void apply(struct tenant_store *ts, struct load *l)
{
	bool first = !ts->loaded_ms;

	if (l->rows_read)
		apply_tenants(ts, l);
	if (l->revoked)
		apply_revocations(ts, l);
	if (l->issuer_set)
		apply_issuers(ts, l);
	if (l->certificate_set)
		apply_certificates(ts, l);
	if (l->whole)
		ts->loaded_ms = clock_us() / 1000;
	if (first && ts->on_ready)
		ts->on_ready(ts->arg);
}

/* Ten thousand tenants are not read again and again while they are being made. */
static void rest(struct tenant_store *ts)
{
	uint64_t now_ms = clock_us() / 1000;
	uint64_t rest_ms = 9 * (now_ms - ts->asked_ms);

	ts->rest_ms =
	        now_ms + (rest_ms < TENANT_STORE_REST_MAX_MS ? rest_ms : TENANT_STORE_REST_MAX_MS);
}

static void load_done(void *job, enum sql_outcome outcome)
{
	struct load *l = job;
	struct tenant_store *ts = l->store;

	ts->busy = false;
	rest(ts);
	if (ts->freed)
		free(ts);
	else if (outcome == SQL_OK)
		apply(ts, l);
	else if (outcome != SQL_RETRY)
		log_error("tenant_store", "outcome=%s cannot read tenants",
		          sql_outcome_name(outcome));
	load_free(l);
}

static void look(struct tenant_store *ts)
{
	uint64_t now_ms = clock_us() / 1000;
	const char *wanted;
	struct load *l;

	if (ts->busy || now_ms < ts->rest_ms)
		return;
	ts->asked_ms = now_ms;
	l = xcalloc(1, sizeof *l);
	l->store = ts;
	l->seen = ts->changes;
	l->seen_revocations = ts->revocations;
	l->seen_issuers = ts->issuers;
	l->seen_certificates = ts->certificates;
	wanted = registry_wanted_issuer(ts->registry);
	if (wanted)
		snprintf(l->wanted, sizeof l->wanted, "%s", wanted);
	l->whole = !ts->loaded_ms || now_ms - ts->loaded_ms >= TENANT_STORE_FULL_S * 1000;
	/* reads only, so it may wait for the database to come back, in whatever generation */
	if (sql_submit_flags(ts->sql, SQL_LANE_ADMIN, load_work, load_done, l, SQL_ANY_GENERATION) <
	    0)
		load_free(l); /* the lane is full: at the next tick */
	else
		ts->busy = true;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	look(arg);
}

struct tenant_store *tenant_store_new(struct event_base *base, struct sql *s, struct registry *r,
                                      void (*on_ready)(void *arg), void *arg)
{
	static const struct timeval every = {TENANT_STORE_POLL_MS / 1000,
	                                     TENANT_STORE_POLL_MS % 1000 * 1000};
	struct tenant_store *ts = xcalloc(1, sizeof *ts);

	ts->sql = s;
	ts->registry = r;
	ts->on_ready = on_ready;
	ts->arg = arg;
	ts->timer = event_new(base, -1, EV_PERSIST, on_timer, ts);
	if (!ts->timer || event_add(ts->timer, &every) < 0)
		fatal("tenant_store: no timer");
	look(ts);
	return ts;
}

void tenant_store_free(struct tenant_store *ts)
{
	if (!ts)
		return;
	event_free(ts->timer);
	if (ts->busy)
		ts->freed = true;
	else
		free(ts);
}
