#include "node/peer/peer_codec.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers and slices ---------------------------------------------------------------------- */

static void put_u8(struct buf *b, uint8_t v)
{
	buf_u8(b, v);
}

static void put_u32(struct buf *b, uint32_t v)
{
	buf_u32be(b, v);
}

static void put_u64(struct buf *b, uint64_t v)
{
	buf_u32be(b, (uint32_t)(v >> 32));
	buf_u32be(b, (uint32_t)v);
}

static void put_id(struct buf *b, struct id128 id)
{
	buf_append(b, id.b, sizeof id.b);
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

/* ---- values of few kinds --------------------------------------------------------------------- */

static void put_kind(struct buf *b, enum bus_sub_kind kind)
{
	put_u8(b, (uint8_t)kind);
}

static enum bus_sub_kind get_kind(struct reader *r)
{
	uint8_t kind = get_u8(r);

	if (kind < BUS_SUB_SESSION || kind > BUS_SUB_QUEUE)
		refuse(r, "no kind of subscription");
	return (enum bus_sub_kind)kind;
}

static void put_result(struct buf *b, uint8_t result)
{
	put_u8(b, result);
}

static uint8_t get_result(struct reader *r)
{
	uint8_t result = get_u8(r);

	if (result > PEER_FLYING)
		refuse(r, "no result of a delivery");
	return result;
}

static void put_flag(struct buf *b, bool flag)
{
	put_u8(b, flag);
}

static bool get_flag(struct reader *r)
{
	uint8_t flag = get_u8(r);

	if (flag > 1)
		refuse(r, "no flag");
	return flag;
}

/* ---- groups of fields: which type has which is said below ------------------------------------ */

/* Of a message, in the order of their bytes. F(kind, member): put_KIND() and get_KIND() above. */
#define TENANT_FIELDS(F) F(u32, tenant_id)
#define NAME_FIELDS(F) F(kind, kind) F(short, name)
#define EPOCH_FIELDS(F) F(u64, subscription_id) F(u64, epoch)
#define FILTERS_FIELDS(F) F(long, filters)
#define CONSUMERS_FIELDS(F) F(u32, consumers)
#define EXPIRY_FIELDS(F) F(u32, expiry_s)
#define CREDIT_FIELDS(F) F(u32, credit)
#define EVENT_FIELDS(F) F(long, attributes) F(long, body) F(u64, gap_from) F(u64, gap_to)
#define FLUSH_FIELDS(F) F(id, session_id) F(u32, writer_no) F(u64, flush_no)
#define DUE_FIELDS(F) F(u64, due_in_ms)
#define AGE_FIELDS(F) F(u64, age_ms)

/* Of an item of one of its lists. */
#define DELIVERY_FIELDS(F)   \
	F(u32, partition_id) \
	F(u64, seq)          \
	F(u64, stamp)        \
	F(u64, timer_id)     \
	F(u32, attempt)      \
	F(result, result)    \
	F(short, reason)
#define HEAD_FIELDS(F) F(u32, tenant_id) F(u32, partition_id) F(u64, next_seq)
#define USE_FIELDS(F)         \
	F(u32, tenant_id)     \
	F(u64, subject)       \
	F(u32, connections)   \
	F(u32, subscriptions) \
	F(u64, events)        \
	F(u64, bytes)         \
	F(u32, waiting)       \
	F(u32, told)          \
	F(flag, watched)

#define PUT(kind, member) put_##kind(b, from->member);
#define GET(kind, member) to->member = get_##kind(r);
#define LEAST(kind, member) +(LEAST_##kind)

/* Bytes of an item at least: a count that its frame has no room for is refused. */
enum {
	LEAST_u8 = 1,
	LEAST_result = 1,
	LEAST_flag = 1,
	LEAST_short = 2,
	LEAST_u32 = 4,
	LEAST_u64 = 8,
};

#define FIELDS(name, type, fields)                              \
	static void put_##name(struct buf *b, const type *from) \
	{                                                       \
		fields(PUT)                                     \
	}                                                       \
                                                                \
	static void get_##name(struct reader *r, type *to)      \
	{                                                       \
		fields(GET)                                     \
	}

/* n_NAMES and NAMES of a message are NAMES of the decoder, whose room is cap_NAMES. */
#define LIST(name, names, type, max, fields)                                    \
	FIELDS(name, type, fields)                                              \
                                                                                \
	static void put_##names(struct buf *b, const struct peer_message *from) \
	{                                                                       \
		assert(from->n_##names <= (max));                               \
		put_u32(b, (uint32_t)from->n_##names);                          \
		for (size_t i = 0; i < from->n_##names; i++)                    \
			put_##name(b, &from->names[i]);                         \
	}                                                                       \
                                                                                \
	static void get_##names(struct reader *r, struct peer_message *to)      \
	{                                                                       \
		struct peer_decoder *d = r->decoder;                            \
		size_t n = get_count(r, max, fields(LEAST));                    \
                                                                                \
		if (n > d->cap_##names) {                                       \
			d->cap_##names = n;                                     \
			d->names = xrealloc(d->names, n * sizeof *d->names);    \
		}                                                               \
		for (size_t i = 0; i < n && !r->bad; i++)                       \
			get_##name(r, &d->names[i]);                            \
		to->n_##names = n;                                              \
		to->names = d->names;                                           \
	}

FIELDS(tenant, struct peer_message, TENANT_FIELDS)
FIELDS(name, struct peer_message, NAME_FIELDS)
FIELDS(epoch, struct peer_message, EPOCH_FIELDS)
FIELDS(filters, struct peer_message, FILTERS_FIELDS)
FIELDS(consumers, struct peer_message, CONSUMERS_FIELDS)
FIELDS(expiry, struct peer_message, EXPIRY_FIELDS)
FIELDS(credit, struct peer_message, CREDIT_FIELDS)
FIELDS(event, struct peer_message, EVENT_FIELDS)
FIELDS(flush, struct peer_message, FLUSH_FIELDS)
FIELDS(due, struct peer_message, DUE_FIELDS)
FIELDS(age, struct peer_message, AGE_FIELDS)
LIST(delivery, deliveries, struct peer_delivery, PEER_DELIVERIES_MAX, DELIVERY_FIELDS)
LIST(head, heads, struct bus_head, PEER_HEADS_MAX, HEAD_FIELDS)
LIST(use, uses, struct peer_use, PEER_USES_MAX, USE_FIELDS)

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
	HEADS = 1 << 11,
	DUE = 1 << 12,
	USES = 1 << 13,
	AGE = 1 << 14,
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
        {HEADS, put_heads, get_heads},
        {DUE, put_due, get_due},
        {USES, put_uses, get_uses},
        {AGE, put_age, get_age},
};
enum { GROUPS = sizeof groups / sizeof groups[0] };

static const struct type {
	const char *name;
	unsigned groups;
} types[] = {
        [PEER_STORED] = {"stored", FLUSH | HEADS},
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
        [PEER_USE] = {"use", USES},
        [PEER_OPENED] = {"opened", TENANT | NAME | AGE},
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
	free(d->uses);
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
	if (m->type == PEER_DELIVER && m->n_deliveries != 1)
		refuse(&r, "not one delivery");
	return read_end(&r, t->name, e);
}
