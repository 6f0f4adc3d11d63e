#include "cluster/batch_impl.h"

#include "base/hash.h"
#include "base/mem.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>

#include <openssl/evp.h>

/* ---- life ---------------------------------------------------------------------------------------
 */

struct batch *batch_new(uint32_t tenant_id, uint32_t partition_id)
{
	struct batch *b = xcalloc(1, sizeof *b);

	b->refs = 1;
	b->tenant_id = tenant_id;
	b->partition_id = partition_id;
	return b;
}

struct batch *batch_ref(struct batch *b)
{
	assert(b->refs > 0);
	b->refs++;
	return b;
}

void batch_unref(struct batch *b)
{
	if (!b)
		return;
	assert(b->refs > 0);
	if (--b->refs)
		return;
	buf_release(&b->attributes);
	buf_release(&b->body);
	buf_release(&b->raw);
	free(b->items);
	free(b->timers);
	free(b);
}

struct batch_item *batch_item_add(struct batch *b)
{
	if (b->n == b->cap) {
		b->cap = b->cap ? b->cap * 2 : ITEMS_FIRST;
		b->items = xrealloc(b->items, b->cap * sizeof *b->items);
		if (b->partition_id == BATCH_SCHEDULED)
			b->timers = xrealloc(b->timers, b->cap * sizeof *b->timers);
	}
	return &b->items[b->n];
}

/* ---- encoding -----------------------------------------------------------------------------------
 */

#define LITERAL(b, s) buf_append((b), "" s, sizeof(s) - 1)

#define ONES 0x0101010101010101ull
#define TOPS 0x8080808080808080ull

/* Whether JSON holds these bytes unchanged: no control character, quote or backslash. Eight at a
 * time; bytes above 0x7f are fine. */
static bool text_plain(struct slice s)
{
	size_t i = 0;

	for (; i + 8 <= s.n; i += 8) {
		uint64_t x;
		uint64_t quote;
		uint64_t backslash;

		memcpy(&x, s.p + i, 8);
		quote = x ^ (ONES * '"');
		backslash = x ^ (ONES * '\\');
		if ((((x - ONES * 0x20) & ~x) | ((quote - ONES) & ~quote) |
		     ((backslash - ONES) & ~backslash)) &
		    TOPS)
			return false;
	}
	for (; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c < 0x20 || c == '"' || c == '\\')
			return false;
	}
	return true;
}

struct batch_place batch_put_raw(struct batch *b, struct slice s)
{
	struct batch_place at = {.at = (uint32_t)b->raw.len | BATCH_IN_RAW, .n = (uint32_t)s.n};

	buf_append_slice(&b->raw, s);
	return at;
}

static void put_quoted(struct buf *out, struct slice s)
{
	char *p;

	if (!text_plain(s)) {
		buf_json_string(out, s);
		return;
	}
	p = buf_extend(out, s.n + 2);
	p[0] = '"';
	if (s.n)
		memcpy(p + 1, s.p, s.n);
	p[s.n + 1] = '"';
}

/* A text that delivery needs: found again in attributes, or in raw when JSON changed it. */
static struct batch_place put_text(struct batch *b, struct slice s)
{
	struct batch_place at = {.at = (uint32_t)b->attributes.len + 1, .n = (uint32_t)s.n};

	put_quoted(&b->attributes, s);
	return b->attributes.len - at.at == s.n + 1 ? at : batch_put_raw(b, s);
}

static void put_base64(struct buf *out, struct slice s)
{
	size_t n = (s.n + 2) / 3 * 4;
	char *p = buf_extend(out, n + 3); /* quotes, and the NUL that OpenSSL adds */

	p[0] = '"';
	EVP_EncodeBlock((unsigned char *)p + 1, (const unsigned char *)s.p, (int)s.n);
	p[n + 1] = '"';
	out->len--;
}

/* Two length bytes, then that many: cut from the front of *props. */
static struct slice take_text(struct slice *props)
{
	struct slice s;

	assert(props->n >= 2);
	s.p = props->p + 2;
	s.n = (size_t)(unsigned char)props->p[0] << 8 | (unsigned char)props->p[1];
	assert(props->n - 2 >= s.n);
	*props = slice(s.p + s.n, props->n - 2 - s.n);
	return s;
}

static void put_user_properties(struct buf *out, struct slice props)
{
	bool first = true;

	while (props.n) {
		unsigned char id = (unsigned char)props.p[0];

		props = slice(props.p + 1, props.n - 1);
		if (id == PROP_FORMAT) {
			props = slice(props.p + 1, props.n - 1);
			continue;
		}
		if (id != PROP_USER) {
			take_text(&props);
			continue;
		}
		buf_append(out, first ? ",\"up\":[[" : ",[", first ? 8 : 2);
		put_quoted(out, take_text(&props));
		buf_u8(out, ',');
		put_quoted(out, take_text(&props));
		buf_u8(out, ']');
		first = false;
	}
	if (!first)
		buf_u8(out, ']');
}

static void put_property(struct buf *out, unsigned char id, struct slice *props)
{
	switch (id) {
	case PROP_FORMAT:
		assert(props->n >= 1);
		buf_printf(out, ",\"pf\":%d", (unsigned char)props->p[0]);
		*props = slice(props->p + 1, props->n - 1);
		break;
	case PROP_CONTENT_TYPE:
		LITERAL(out, ",\"ct\":");
		put_quoted(out, take_text(props));
		break;
	case PROP_RESPONSE_TOPIC:
		LITERAL(out, ",\"rt\":");
		put_quoted(out, take_text(props));
		break;
	case PROP_CORRELATION:
		LITERAL(out, ",\"cd\":");
		put_base64(out, take_text(props));
		break;
	default:
		fatal("event property 0x%02x is not one that an event carries", id);
	}
}

/* User properties may stand between the others: those first, then all user properties. */
static void put_properties(struct buf *out, struct slice props)
{
	bool user = false;

	for (struct slice left = props; left.n;) {
		unsigned char id = (unsigned char)left.p[0];

		left = slice(left.p + 1, left.n - 1);
		if (id == PROP_USER) {
			user = true;
			take_text(&left);
			take_text(&left);
		} else {
			put_property(out, id, &left);
		}
	}
	if (user)
		put_user_properties(out, props);
}

/* Attributes that are stored and that delivery does not look at. */
static void put_rare_texts(struct buf *out, const struct event *ev)
{
	static const struct {
		const char *prefix;
		size_t at;
	} rare[] = {
	        {",\"id\":", offsetof(struct event, id)},
	        {",\"source\":", offsetof(struct event, source)},
	        {",\"type\":", offsetof(struct event, type)},
	        {",\"time\":", offsetof(struct event, time)},
	        {",\"subject\":", offsetof(struct event, subject)},
	        {",\"corr\":", offsetof(struct event, correlation_id)},
	        {",\"caus\":", offsetof(struct event, causation_id)},
	};

	for (size_t i = 0; i < sizeof rare / sizeof *rare; i++) {
		struct slice s;

		memcpy(&s, (const char *)ev + rare[i].at, sizeof s);
		if (s.n) {
			buf_append_str(out, rare[i].prefix);
			put_quoted(out, s);
		}
	}
}

static void put_expiry(struct buf *out, uint64_t expires_ms)
{
	LITERAL(out, ",\"exp\":");
	buf_u64_dec(out, expires_ms);
}

static void put_offsets(struct buf *out, uint32_t at, uint32_t n)
{
	LITERAL(out, ",\"o\":");
	buf_u64_dec(out, at);
	LITERAL(out, ",\"l\":");
	buf_u64_dec(out, n);
	buf_u8(out, '}');
}

static void put_attributes(struct batch *b, const struct event *ev, struct batch_item *it)
{
	struct buf *out = &b->attributes;

	buf_u8(out, b->n ? ',' : '[');
	it->attr_at = (uint32_t)out->len;
	LITERAL(out, "{\"topic\":");
	it->topic = put_text(b, ev->topic);
	if (ev->qos != 1)
		buf_printf(out, ",\"q\":%d", ev->qos);
	if (ev->client.n) {
		LITERAL(out, ",\"client\":");
		it->client = put_text(b, ev->client);
	}
	if (ev->key.n) {
		LITERAL(out, ",\"key\":");
		it->key = put_text(b, ev->key);
	}
	put_rare_texts(out, ev);
	if (ev->props.n) {
		it->props = batch_put_raw(b, ev->props);
		put_properties(out, ev->props);
	}
	if (ev->expires_ms)
		put_expiry(out, ev->expires_ms);
	it->attr_n = (uint32_t)out->len - it->attr_at;
	put_offsets(out, it->body_at, it->body_n);
}

/* ---- building -----------------------------------------------------------------------------------
 */

/* A lower bound of what the event adds: turns a full batch away before anything is copied. */
static size_t event_bytes_min(const struct event *ev)
{
	return ev->payload.n + ev->topic.n + ev->client.n + ev->key.n + ev->props.n / 2;
}

static void put_timer(struct batch *b, const struct event *ev)
{
	b->timers[b->n] = (struct batch_timer){
	        .when = ev->when,
	        .when_ms = ev->when_ms,
	        .will_id = ev->will_id,
	        .will_expiry_ms = ev->will_expiry_ms,
	        .partition_id = ev->partition_id,
	        .owner = batch_put_raw(b, ev->owner),
	        .name = batch_put_raw(b, ev->name),
	};
}

int batch_append(struct batch *b, const struct event *ev, struct publisher from)
{
	size_t attributes_before = b->attributes.len;
	size_t raw_before = b->raw.len;
	struct batch_item *it;

	assert(!b->sealed && ev->topic.n > 0 && ev->topic.n <= BATCH_TEXT_MAX);
	assert((b->partition_id == BATCH_SCHEDULED) == (ev->when != EVENT_NOW));
	assert(ev->payload.n <= BATCH_BODY_MAX - b->body.len);
	if (b->n == BATCH_MAX_EVENTS)
		return -1;
	if (b->n && batch_bytes(b) + event_bytes_min(ev) > BATCH_MAX_BYTES)
		return -1;
	it = batch_item_add(b);
	*it = (struct batch_item){
	        .from = from,
	        .expires_ms = ev->expires_ms,
	        .qos = ev->qos,
	        .body_at = (uint32_t)b->body.len,
	        .body_n = (uint32_t)ev->payload.n,
	};
	buf_grow(&b->attributes, ev->topic.n + ev->client.n + EVENT_OVERHEAD);
	put_attributes(b, ev, it);
	if (b->n && batch_bytes(b) + ev->payload.n > BATCH_MAX_BYTES) {
		b->attributes.len = attributes_before;
		b->raw.len = raw_before;
		return -1;
	}
	buf_append_slice(&b->body, ev->payload);
	if (b->timers)
		put_timer(b, ev);
	b->n++;
	return 0;
}

void batch_seal(struct batch *b)
{
	assert(!b->sealed && b->n > 0);
	buf_u8(&b->attributes, ']');
	b->sealed = true;
}

static struct slice place_slice(const struct batch *b, struct batch_place p)
{
	const struct buf *in = p.at & BATCH_IN_RAW ? &b->raw : &b->attributes;

	return p.n ? slice(in->data + (p.at & ~BATCH_IN_RAW), p.n) : slice(NULL, 0);
}

/* Places in attributes move with the object they are in, those in raw are copied. */
static struct batch_place place_move(const struct batch *from, struct batch *to,
                                     struct batch_place p, uint32_t old_at, uint32_t new_at)
{
	if (p.at & BATCH_IN_RAW)
		return batch_put_raw(to, place_slice(from, p));
	if (p.n)
		p.at = p.at - old_at + new_at;
	return p;
}

static void move_timer(const struct batch *from, struct batch *to, uint32_t i)
{
	struct batch_timer *t = &to->timers[to->n];

	*t = from->timers[i];
	t->owner = batch_put_raw(to, place_slice(from, from->timers[i].owner));
	t->name = batch_put_raw(to, place_slice(from, from->timers[i].name));
}

static void move_one(const struct batch *from, struct batch *to, uint32_t i, uint64_t expires_ms)
{
	const struct batch_item *old = &from->items[i];
	struct batch_item *it = batch_item_add(to);

	buf_u8(&to->attributes, to->n ? ',' : '[');
	*it = *old;
	it->attr_at = (uint32_t)to->attributes.len;
	it->body_at = (uint32_t)to->body.len;
	it->topic = place_move(from, to, old->topic, old->attr_at, it->attr_at);
	it->client = place_move(from, to, old->client, old->attr_at, it->attr_at);
	it->key = place_move(from, to, old->key, old->attr_at, it->attr_at);
	it->props = place_move(from, to, old->props, old->attr_at, it->attr_at);
	if (old->attr_n)
		buf_append(&to->attributes, from->attributes.data + old->attr_at, old->attr_n);
	else
		batch_object(from, i, &to->attributes);
	if (expires_ms) {
		it->expires_ms = expires_ms;
		put_expiry(&to->attributes, expires_ms);
	}
	it->attr_n = (uint32_t)to->attributes.len - it->attr_at;
	put_offsets(&to->attributes, it->body_at, it->body_n);
	if (it->body_n)
		buf_append(&to->body, from->body.data + old->body_at, old->body_n);
	if (to->timers)
		move_timer(from, to, i);
	to->n++;
}

struct batch *batch_split(const struct batch *b, uint32_t from, uint32_t to)
{
	struct batch *part = batch_new(b->tenant_id, b->partition_id);

	assert(b->sealed && from < to && to <= b->n);
	for (uint32_t i = from; i < to; i++)
		move_one(b, part, i, 0);
	batch_seal(part);
	return part;
}

int batch_take(struct batch *to, const struct batch *from, uint32_t i, uint64_t expires_ms)
{
	const struct batch_item *it;

	assert(!to->sealed && from->sealed && i < from->n && to->partition_id != BATCH_SCHEDULED);
	it = &from->items[i];
	if (to->n == BATCH_MAX_EVENTS)
		return -1;
	if (to->n && batch_bytes(to) + it->body_n + it->attr_n + EVENT_OVERHEAD > BATCH_MAX_BYTES)
		return -1;
	assert(!expires_ms || !it->expires_ms);
	move_one(from, to, i, expires_ms);
	return 0;
}

/* ---- reading ------------------------------------------------------------------------------------
 */

uint32_t batch_tenant(const struct batch *b)
{
	return b->tenant_id;
}

uint32_t batch_partition(const struct batch *b)
{
	return b->partition_id;
}

uint32_t batch_count(const struct batch *b)
{
	return b->n;
}

size_t batch_bytes(const struct batch *b)
{
	return b->attributes.len + !b->sealed + b->body.len;
}

size_t batch_memory(const struct batch *b)
{
	return sizeof *b + b->cap * (sizeof *b->items + (b->timers ? sizeof *b->timers : 0)) +
	       b->attributes.cap + b->body.cap + b->raw.cap;
}

struct slice batch_attributes(const struct batch *b)
{
	assert(b->sealed);
	return buf_slice(&b->attributes);
}

struct slice batch_body(const struct batch *b)
{
	assert(b->sealed);
	return buf_slice(&b->body);
}

uint64_t batch_base_seq(const struct batch *b)
{
	return b->base_seq;
}

void batch_set_base_seq(struct batch *b, uint64_t base_seq)
{
	b->base_seq = base_seq;
}

uint64_t batch_stamp(const struct batch *b)
{
	return b->stamp;
}

void batch_set_stamp(struct batch *b, uint64_t stamp)
{
	b->stamp = stamp;
}

uint64_t batch_stamp_of(const uint8_t session_id[16], uint32_t writer_no, uint64_t flush_no)
{
	uint8_t text[16 + sizeof writer_no + sizeof flush_no];

	memcpy(text, session_id, 16);
	memcpy(text + 16, &writer_no, sizeof writer_no);
	memcpy(text + 16 + sizeof writer_no, &flush_no, sizeof flush_no);
	return hash_stable(text, sizeof text);
}

void batch_event(const struct batch *b, uint32_t i, struct event *out)
{
	const struct batch_item *it;

	assert(i < b->n);
	it = &b->items[i];
	*out = (struct event){
	        .topic = place_slice(b, it->topic),
	        .payload =
	                it->body_n ? slice(b->body.data + it->body_at, it->body_n) : slice(NULL, 0),
	        .props = place_slice(b, it->props),
	        .client = place_slice(b, it->client),
	        .key = place_slice(b, it->key),
	        .expires_ms = it->expires_ms,
	        .qos = it->qos,
	};
	if (b->timers) {
		const struct batch_timer *t = &b->timers[i];

		out->when = t->when;
		out->when_ms = t->when_ms;
		out->will_id = t->will_id;
		out->will_expiry_ms = t->will_expiry_ms;
		out->partition_id = t->partition_id;
		out->owner = place_slice(b, t->owner);
		out->name = place_slice(b, t->name);
	}
}

void batch_set_missing(struct batch *b, uint32_t i)
{
	assert(i < b->n && b->timers);
	b->timers[i].missing = true;
}

bool batch_missing(const struct batch *b, uint32_t i)
{
	assert(i < b->n && b->timers);
	return b->timers[i].missing;
}

struct publisher batch_publisher(const struct batch *b, uint32_t i)
{
	assert(i < b->n);
	return b->items[i].from;
}
