#include "node/peer/peer_codec.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers and slices ---------------------------------------------------------------------- */

static void put_u64(struct buf *b, uint64_t v)
{
	buf_u32be(b, (uint32_t)(v >> 32));
	buf_u32be(b, (uint32_t)v);
}

static void put_short(struct buf *b, struct slice s) /* up to 64 KiB */
{
	assert(s.n <= UINT16_MAX);
	buf_u16be(b, (uint16_t)s.n);
	buf_append_slice(b, s);
}

static void put_long(struct buf *b, struct slice s)
{
	assert(s.n <= PEER_FRAME_MAX);
	buf_u32be(b, (uint32_t)s.n);
	buf_append_slice(b, s);
}

struct reader {
	const uint8_t *p;
	size_t n;        /* bytes left */
	const char *bad; /* what is wrong with them; NULL = nothing so far. Numbers read 0 then */
	struct peer_decoder *decoder;
};

static const uint8_t *take(struct reader *r, size_t n)
{
	const uint8_t *p = r->p;

	if (r->bad || r->n < n) {
		r->bad = r->bad ? r->bad : "too short";
		return NULL;
	}
	r->p += n;
	r->n -= n;
	return p;
}

static uint64_t get_number(struct reader *r, unsigned bytes)
{
	const uint8_t *p = take(r, bytes);
	uint64_t v = 0;

	for (unsigned i = 0; p && i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

static uint8_t get_u8(struct reader *r)
{
	return (uint8_t)get_number(r, 1);
}

static uint16_t get_u16(struct reader *r)
{
	return (uint16_t)get_number(r, 2);
}

static uint32_t get_u32(struct reader *r)
{
	return (uint32_t)get_number(r, 4);
}

static uint64_t get_u64(struct reader *r)
{
	return get_number(r, 8);
}

static struct slice get_slice(struct reader *r, size_t n)
{
	const uint8_t *p = take(r, n);

	return p ? slice(p, n) : slice(NULL, 0);
}

static struct slice get_short(struct reader *r)
{
	return get_slice(r, get_u16(r));
}

static struct slice get_long(struct reader *r)
{
	return get_slice(r, get_u32(r));
}

static struct id128 get_id(struct reader *r)
{
	struct id128 id = {0};
	const uint8_t *p = take(r, sizeof id.b);

	if (p)
		memcpy(id.b, p, sizeof id.b);
	return id;
}

static void refuse(struct reader *r, const char *why)
{
	if (!r->bad)
		r->bad = why;
}

/* A count of things of at least `least` bytes: no more than can be there. */
static size_t get_count(struct reader *r, size_t max, size_t least)
{
	size_t n = get_u32(r);

	if (n > max || n > r->n / least) {
		refuse(r, "a count is too large");
		return 0;
	}
	return n;
}

/* ---- groups of fields: which type has which is said below ------------------------------------ */

static void put_tenant(struct buf *b, const struct peer_message *m)
{
	buf_u32be(b, m->tenant_id);
}

static void get_tenant(struct reader *r, struct peer_message *m)
{
	m->tenant_id = get_u32(r);
}

static void put_name(struct buf *b, const struct peer_message *m)
{
	buf_u8(b, (uint8_t)m->kind);
	put_short(b, m->name);
}

static void get_name(struct reader *r, struct peer_message *m)
{
	uint8_t kind = get_u8(r);

	if (kind < BUS_SUB_SESSION || kind > BUS_SUB_QUEUE)
		refuse(r, "no kind of subscription");
	m->kind = (enum bus_sub_kind)kind;
	m->name = get_short(r);
}

static void put_epoch(struct buf *b, const struct peer_message *m)
{
	put_u64(b, m->subscription_id);
	put_u64(b, m->epoch);
}

static void get_epoch(struct reader *r, struct peer_message *m)
{
	m->subscription_id = get_u64(r);
	m->epoch = get_u64(r);
}

static void put_filters(struct buf *b, const struct peer_message *m)
{
	put_long(b, m->filters);
}

static void get_filters(struct reader *r, struct peer_message *m)
{
	m->filters = get_long(r);
}

enum { POLICY_ORDERED = 1 << 0, POLICY_PIN = 1 << 1 };

static void put_policy(struct buf *b, const struct peer_message *m)
{
	const struct bus_policy *p = &m->policy;

	buf_u32be(b, p->max_attempts);
	buf_u32be(b, p->ack_timeout_ms);
	buf_u32be(b, p->backoff_ms);
	buf_u32be(b, p->backoff_max_ms);
	buf_u32be(b, p->max_failed);
	buf_u8(b, (uint8_t)((p->ordered ? POLICY_ORDERED : 0) | (p->pin ? POLICY_PIN : 0)));
}

static void get_policy(struct reader *r, struct peer_message *m)
{
	struct bus_policy *p = &m->policy;
	uint8_t flags;

	p->max_attempts = get_u32(r);
	p->ack_timeout_ms = get_u32(r);
	p->backoff_ms = get_u32(r);
	p->backoff_max_ms = get_u32(r);
	p->max_failed = get_u32(r);
	flags = get_u8(r);
	if (flags & ~(POLICY_ORDERED | POLICY_PIN))
		refuse(r, "no flags of a policy");
	p->ordered = flags & POLICY_ORDERED;
	p->pin = flags & POLICY_PIN;
}

static void put_consumers(struct buf *b, const struct peer_message *m)
{
	buf_u32be(b, m->consumers);
}

static void get_consumers(struct reader *r, struct peer_message *m)
{
	m->consumers = get_u32(r);
}

static void put_expiry(struct buf *b, const struct peer_message *m)
{
	buf_u32be(b, m->expiry_s);
}

static void get_expiry(struct reader *r, struct peer_message *m)
{
	m->expiry_s = get_u32(r);
}

static void put_credit(struct buf *b, const struct peer_message *m)
{
	buf_u32be(b, m->credit);
}

static void get_credit(struct reader *r, struct peer_message *m)
{
	m->credit = get_u32(r);
}

enum { DELIVERY_LEAST = 4 + 8 + 8 + 8 + 4 + 1 + 2, HEAD_SIZE = 4 + 4 + 8 };

static void put_deliveries(struct buf *b, const struct peer_message *m)
{
	assert(m->n_deliveries <= PEER_DELIVERIES_MAX);
	buf_u32be(b, (uint32_t)m->n_deliveries);
	for (size_t i = 0; i < m->n_deliveries; i++) {
		const struct peer_delivery *d = &m->deliveries[i];

		buf_u32be(b, d->partition_id);
		put_u64(b, d->seq);
		put_u64(b, d->stamp);
		put_u64(b, d->timer_id);
		buf_u32be(b, d->attempt);
		buf_u8(b, d->result);
		put_short(b, d->reason);
	}
}

static void get_delivery(struct reader *r, struct peer_delivery *d)
{
	d->partition_id = get_u32(r);
	d->seq = get_u64(r);
	d->stamp = get_u64(r);
	d->timer_id = get_u64(r);
	d->attempt = get_u32(r);
	d->result = get_u8(r);
	d->reason = get_short(r);
	if (d->result > PEER_FLYING)
		refuse(r, "no result of a delivery");
}

static void get_deliveries(struct reader *r, struct peer_message *m)
{
	struct peer_decoder *d = r->decoder;
	size_t n = get_count(r, PEER_DELIVERIES_MAX, DELIVERY_LEAST);

	if (m->type == PEER_DELIVER && n != 1)
		refuse(r, "not one delivery");
	if (n > d->cap_deliveries) {
		d->cap_deliveries = n;
		d->deliveries = xrealloc(d->deliveries, n * sizeof *d->deliveries);
	}
	for (size_t i = 0; i < n && !r->bad; i++)
		get_delivery(r, &d->deliveries[i]);
	m->n_deliveries = n;
	m->deliveries = d->deliveries;
}

static void put_event(struct buf *b, const struct peer_message *m)
{
	put_long(b, m->attributes);
	put_long(b, m->body);
	put_u64(b, m->gap_from);
	put_u64(b, m->gap_to);
}

static void get_event(struct reader *r, struct peer_message *m)
{
	m->attributes = get_long(r);
	m->body = get_long(r);
	m->gap_from = get_u64(r);
	m->gap_to = get_u64(r);
}

static void put_flush(struct buf *b, const struct peer_message *m)
{
	assert(m->n_heads <= PEER_HEADS_MAX);
	buf_append(b, m->session_id.b, sizeof m->session_id.b);
	buf_u32be(b, m->writer_no);
	put_u64(b, m->flush_no);
	buf_u32be(b, (uint32_t)m->n_heads);
	for (size_t i = 0; i < m->n_heads; i++) {
		buf_u32be(b, m->heads[i].tenant_id);
		buf_u32be(b, m->heads[i].partition_id);
		put_u64(b, m->heads[i].next_seq);
	}
}

static void get_flush(struct reader *r, struct peer_message *m)
{
	struct peer_decoder *d = r->decoder;
	size_t n;

	m->session_id = get_id(r);
	m->writer_no = get_u32(r);
	m->flush_no = get_u64(r);
	n = get_count(r, PEER_HEADS_MAX, HEAD_SIZE);
	if (n > d->cap_heads) {
		d->cap_heads = n;
		d->heads = xrealloc(d->heads, n * sizeof *d->heads);
	}
	for (size_t i = 0; i < n; i++) {
		d->heads[i].tenant_id = get_u32(r);
		d->heads[i].partition_id = get_u32(r);
		d->heads[i].next_seq = get_u64(r);
	}
	m->n_heads = n;
	m->heads = d->heads;
}

static void put_due(struct buf *b, const struct peer_message *m)
{
	put_u64(b, m->due_in_ms);
}

static void get_due(struct reader *r, struct peer_message *m)
{
	m->due_in_ms = get_u64(r);
}

/* In the order of their bytes. */
enum {
	TENANT = 1 << 0,
	NAME = 1 << 1,
	EPOCH = 1 << 2,
	FILTERS = 1 << 3,
	POLICY = 1 << 4,
	CONSUMERS = 1 << 5,
	EXPIRY = 1 << 6,
	CREDIT = 1 << 7,
	DELIVERIES = 1 << 8,
	EVENT = 1 << 9,
	FLUSH = 1 << 10,
	DUE = 1 << 11,
};

static const struct group {
	unsigned bit;
	void (*put)(struct buf *b, const struct peer_message *m);
	void (*get)(struct reader *r, struct peer_message *m);
} groups[] = {
        {TENANT, put_tenant, get_tenant},
        {NAME, put_name, get_name},
        {EPOCH, put_epoch, get_epoch},
        {FILTERS, put_filters, get_filters},
        {POLICY, put_policy, get_policy},
        {CONSUMERS, put_consumers, get_consumers},
        {EXPIRY, put_expiry, get_expiry},
        {CREDIT, put_credit, get_credit},
        {DELIVERIES, put_deliveries, get_deliveries},
        {EVENT, put_event, get_event},
        {FLUSH, put_flush, get_flush},
        {DUE, put_due, get_due},
};
enum { GROUPS = sizeof groups / sizeof groups[0] };

static const struct type {
	const char *name;
	unsigned groups;
} types[] = {
        [PEER_STORED] = {"stored", FLUSH},
        [PEER_DUE] = {"due", DUE},
        [PEER_OWNER] = {"owner", TENANT | NAME | EPOCH},
        [PEER_HELD] = {"held", TENANT | NAME | EPOCH | DELIVERIES},
        [PEER_RELEASED] = {"released", TENANT | NAME},
        [PEER_ATTACH] = {"attach", TENANT | NAME | CONSUMERS | EXPIRY},
        [PEER_ATTACHED] = {"attached", TENANT | NAME | EPOCH | FILTERS | POLICY},
        [PEER_REFUSED] = {"refused", TENANT | NAME},
        [PEER_CREDIT] = {"credit", TENANT | EPOCH | CONSUMERS | CREDIT},
        [PEER_DELIVER] = {"deliver", TENANT | EPOCH | DELIVERIES | EVENT},
        [PEER_SETTLE] = {"settle", TENANT | EPOCH | DELIVERIES},
        [PEER_DETACH] = {"detach", TENANT | NAME},
};
enum { TYPES = sizeof types / sizeof types[0] };

static const struct type *type_of(uint8_t type)
{
	return type < TYPES && types[type].name ? &types[type] : NULL;
}

const char *peer_type_name(uint8_t type)
{
	const struct type *t = type_of(type);

	return t ? t->name : "unknown";
}

/* ---- frames ---------------------------------------------------------------------------------- */

/* Returns where the frame begins; frame_end() fills in its length. */
static size_t frame_begin(struct buf *out, uint8_t type)
{
	size_t at = out->len;

	buf_u32be(out, 0);
	buf_u8(out, type);
	return at;
}

static void frame_end(struct buf *out, size_t at)
{
	size_t n = out->len - at - 4;

	assert(n - 1 <= PEER_FRAME_MAX);
	for (int i = 0; i < 4; i++)
		out->data[at + (size_t)i] = (char)(n >> (24 - 8 * i) & 0xff);
}

enum peer_cut peer_frame_cut(struct slice in, size_t max, struct peer_frame *out)
{
	struct reader r = {.p = (const uint8_t *)in.p, .n = in.n};
	size_t n;

	if (in.n < PEER_FRAME_HEAD)
		return PEER_CUT_MORE;
	n = get_u32(&r);
	if (n == 0 || n - 1 > max)
		return PEER_CUT_BAD;
	out->type = get_u8(&r);
	out->size = n + 4;
	if (in.n < out->size)
		return PEER_CUT_MORE;
	out->payload = slice(in.p + PEER_FRAME_HEAD, n - 1);
	return PEER_CUT_OK;
}

static int read_end(const struct reader *r, const char *name, struct err *e)
{
	if (r->bad)
		return err_set(e, 0, "a %s frame: %s", name, r->bad);
	if (r->n)
		return err_set(e, 0, "a %s frame: %zu bytes too long", name, r->n);
	return 0;
}

/* "LEAT" first: whatever else connects here with the right key is told from a node at once. */
static const char magic[4] = {'L', 'E', 'A', 'T'};

void peer_hello_encode(struct buf *out, const struct peer_hello *h)
{
	size_t at = frame_begin(out, PEER_FRAME_HELLO);

	assert(h->addr.n <= BUS_ADDR_MAX);
	buf_append(out, magic, sizeof magic);
	buf_u16be(out, h->version);
	buf_append(out, h->session_id.b, sizeof h->session_id.b);
	put_short(out, h->addr);
	frame_end(out, at);
}

/* Later versions may add to it: bytes behind the fields known here are no error. */
int peer_hello_decode(struct slice payload, struct peer_hello *out, struct err *e)
{
	struct reader r = {.p = (const uint8_t *)payload.p, .n = payload.n};
	struct slice word = get_slice(&r, sizeof magic);

	if (!slice_eq(word, slice(magic, sizeof magic)))
		return err_set(e, 0, "not a Leat node");
	out->version = get_u16(&r);
	out->session_id = get_id(&r);
	out->addr = get_short(&r);
	if (out->addr.n > BUS_ADDR_MAX || (out->addr.n && memchr(out->addr.p, 0, out->addr.n)))
		refuse(&r, "not an address");
	if (id128_is_zero(&out->session_id))
		refuse(&r, "no session");
	r.n = 0;
	return read_end(&r, "hello", e);
}

void peer_ping_encode(struct buf *out)
{
	frame_end(out, frame_begin(out, PEER_FRAME_PING));
}

void peer_encode(struct buf *out, const struct peer_message *m)
{
	const struct type *t = type_of((uint8_t)m->type);
	size_t at = frame_begin(out, (uint8_t)m->type);

	assert(t);
	for (size_t i = 0; i < GROUPS; i++) {
		if (t->groups & groups[i].bit)
			groups[i].put(out, m);
	}
	frame_end(out, at);
}

void peer_decoder_release(struct peer_decoder *d)
{
	free(d->deliveries);
	free(d->heads);
	*d = (struct peer_decoder){0};
}

int peer_decode(struct peer_decoder *d, const struct peer_frame *f, struct peer_message *m,
                struct err *e)
{
	const struct type *t = type_of(f->type);
	struct reader r = {.p = (const uint8_t *)f->payload.p, .n = f->payload.n, .decoder = d};

	if (!t)
		return err_set(e, 0, "a frame of unknown type %u", f->type);
	memset(m, 0, sizeof *m);
	m->type = (enum peer_type)f->type;
	for (size_t i = 0; i < GROUPS && !r.bad; i++) {
		if (t->groups & groups[i].bit)
			groups[i].get(&r, m);
	}
	return read_end(&r, t->name, e);
}
