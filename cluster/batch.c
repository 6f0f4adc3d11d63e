#include "cluster/batch.h"

#include "base/buf.h"
#include "base/hash.h"
#include "base/mem.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>

#include <jansson.h>
#include <openssl/evp.h>

enum {
	ITEMS_FIRST = 2,
	TEXT_MAX = 65535,           /* bytes of one text or one correlation data, as in MQTT */
	ATTRIBUTES_MAX = 64u << 20, /* bytes of a row that is worth parsing */
	EVENT_OVERHEAD = 96,        /* bytes of keys, quotes and numbers in a usual event */
	BODY_MAX = INT32_MAX,       /* offsets are 31 bits */
};

#define IN_RAW 0x80000000u /* in place.at: an offset into raw instead of attributes */

/* MQTT 5 property identifiers of the block in event.props. */
enum {
	PROP_FORMAT = 0x01,
	PROP_CONTENT_TYPE = 0x03,
	PROP_RESPONSE_TOPIC = 0x08,
	PROP_CORRELATION = 0x09,
	PROP_USER = 0x26,
};

/* Where some bytes are: in attributes when JSON holds them as they are, else in raw. */
struct place {
	uint32_t at;
	uint32_t n;
};

struct item {
	struct publisher from;
	uint64_t expires_ms;
	struct place topic;
	struct place client;
	struct place key;
	struct place props;
	uint32_t body_at;
	uint32_t body_n;
	uint32_t attr_at; /* its object up to, and without, ,"o":…; attr_n 0 = decoded */
	uint32_t attr_n;
	uint8_t qos;
};

struct batch {
	uint32_t refs;
	uint32_t tenant_id;
	uint32_t partition_id;
	uint32_t n;
	uint32_t cap;
	bool sealed;
	uint64_t base_seq; /* 0 until stored */
	uint64_t stamp;
	struct item *items;
	struct buf attributes; /* JSON; without its closing bracket until sealed */
	struct buf body;
	struct buf raw; /* what JSON had to change: property blocks, texts with escapes */
};

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
	free(b);
}

static struct item *item_add(struct batch *b)
{
	if (b->n == b->cap) {
		b->cap = b->cap ? b->cap * 2 : ITEMS_FIRST;
		b->items = xrealloc(b->items, b->cap * sizeof *b->items);
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

static struct place put_raw(struct batch *b, struct slice s)
{
	struct place at = {.at = (uint32_t)b->raw.len | IN_RAW, .n = (uint32_t)s.n};

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
static struct place put_text(struct batch *b, struct slice s)
{
	struct place at = {.at = (uint32_t)b->attributes.len + 1, .n = (uint32_t)s.n};

	put_quoted(&b->attributes, s);
	return b->attributes.len - at.at == s.n + 1 ? at : put_raw(b, s);
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

static void put_offsets(struct buf *out, uint32_t at, uint32_t n)
{
	LITERAL(out, ",\"o\":");
	buf_u64_dec(out, at);
	LITERAL(out, ",\"l\":");
	buf_u64_dec(out, n);
	buf_u8(out, '}');
}

static void put_attributes(struct batch *b, const struct event *ev, struct item *it)
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
		it->props = put_raw(b, ev->props);
		put_properties(out, ev->props);
	}
	if (ev->expires_ms) {
		LITERAL(out, ",\"exp\":");
		buf_u64_dec(out, ev->expires_ms);
	}
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

int batch_append(struct batch *b, const struct event *ev, struct publisher from)
{
	size_t attributes_before = b->attributes.len;
	size_t raw_before = b->raw.len;
	struct item *it;

	assert(!b->sealed && ev->topic.n > 0 && ev->topic.n <= TEXT_MAX);
	assert(ev->payload.n <= BODY_MAX - b->body.len);
	if (b->n == BATCH_MAX_EVENTS)
		return -1;
	if (b->n && batch_bytes(b) + event_bytes_min(ev) > BATCH_MAX_BYTES)
		return -1;
	it = item_add(b);
	*it = (struct item){
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
	b->n++;
	return 0;
}

void batch_seal(struct batch *b)
{
	assert(!b->sealed && b->n > 0);
	buf_u8(&b->attributes, ']');
	b->sealed = true;
}

static struct slice place_slice(const struct batch *b, struct place p)
{
	const struct buf *in = p.at & IN_RAW ? &b->raw : &b->attributes;

	return p.n ? slice(in->data + (p.at & ~IN_RAW), p.n) : slice(NULL, 0);
}

/* Places in attributes move with the object they are in, those in raw are copied. */
static struct place place_move(const struct batch *from, struct batch *to, struct place p,
                               uint32_t old_at, uint32_t new_at)
{
	if (p.at & IN_RAW)
		return put_raw(to, place_slice(from, p));
	if (p.n)
		p.at = p.at - old_at + new_at;
	return p;
}

static void split_one(const struct batch *from, struct batch *to, const struct item *old)
{
	struct item *it = item_add(to);

	assert(old->attr_n > 0);
	buf_u8(&to->attributes, to->n ? ',' : '[');
	*it = *old;
	it->attr_at = (uint32_t)to->attributes.len;
	it->body_at = (uint32_t)to->body.len;
	it->topic = place_move(from, to, old->topic, old->attr_at, it->attr_at);
	it->client = place_move(from, to, old->client, old->attr_at, it->attr_at);
	it->key = place_move(from, to, old->key, old->attr_at, it->attr_at);
	it->props = place_move(from, to, old->props, old->attr_at, it->attr_at);
	buf_append(&to->attributes, from->attributes.data + old->attr_at, old->attr_n);
	put_offsets(&to->attributes, it->body_at, it->body_n);
	if (it->body_n)
		buf_append(&to->body, from->body.data + old->body_at, old->body_n);
	to->n++;
}

struct batch *batch_split(const struct batch *b, uint32_t from, uint32_t to)
{
	struct batch *part = batch_new(b->tenant_id, b->partition_id);

	assert(b->sealed && from < to && to <= b->n);
	for (uint32_t i = from; i < to; i++)
		split_one(b, part, &b->items[i]);
	batch_seal(part);
	return part;
}

/* ---- decoding -----------------------------------------------------------------------------------
 */

/* A text member. 0 also when absent (out empty); -1 when it is no text or too long. */
static int get_text(const json_t *object, const char *key, struct slice *out, struct err *e)
{
	const json_t *v = json_object_get(object, key);

	*out = slice(NULL, 0);
	if (!v)
		return 0;
	if (!json_is_string(v) || json_string_length(v) > TEXT_MAX)
		return err_set(e, 0, "%s is not a text of at most %d bytes", key, TEXT_MAX);
	*out = slice(json_string_value(v), json_string_length(v));
	return 0;
}

static int get_number(const json_t *object, const char *key, uint64_t absent, uint64_t max,
                      uint64_t *out, struct err *e)
{
	const json_t *v = json_object_get(object, key);

	*out = absent;
	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0 ||
	    (uint64_t)json_integer_value(v) > max)
		return err_set(e, 0, "%s is not a number from 0 to %llu", key,
		               (unsigned long long)max);
	*out = (uint64_t)json_integer_value(v);
	return 0;
}

static void raw_property(struct buf *raw, uint8_t id, struct slice s)
{
	buf_u8(raw, id);
	buf_u16be(raw, (uint16_t)s.n);
	buf_append_slice(raw, s);
}

static int decode_text_property(struct batch *b, const json_t *object, const char *key, uint8_t id,
                                struct err *e)
{
	struct slice s;

	if (get_text(object, key, &s, e))
		return -1;
	if (s.p)
		raw_property(&b->raw, id, s);
	return 0;
}

static int decode_correlation(struct batch *b, const json_t *object, struct err *e)
{
	const json_t *v = json_object_get(object, "cd");
	size_t n = json_string_length(v);
	const char *text = json_string_value(v);
	size_t padding = 0;
	unsigned char *out;
	int got;

	if (!v)
		return 0;
	if (!text || n % 4 || n / 4 * 3 > TEXT_MAX + 2)
		return err_set(e, 0, "cd is not base64 of at most %d bytes", TEXT_MAX);
	while (padding < 2 && padding < n && text[n - 1 - padding] == '=')
		padding++;
	if (n / 4 * 3 - padding > TEXT_MAX)
		return err_set(e, 0, "cd is longer than %d bytes", TEXT_MAX);
	buf_u8(&b->raw, PROP_CORRELATION);
	buf_u16be(&b->raw, (uint16_t)(n / 4 * 3 - padding));
	out = (unsigned char *)buf_extend(&b->raw, n / 4 * 3);
	got = n ? EVP_DecodeBlock(out, (const unsigned char *)text, (int)n) : 0;
	if (got != (int)(n / 4 * 3))
		return err_set(e, 0, "cd is not base64");
	b->raw.len -= padding;
	return 0;
}

static int decode_user_properties(struct batch *b, const json_t *object, struct err *e)
{
	const json_t *list = json_object_get(object, "up");
	size_t i;
	const json_t *pair;

	if (list && !json_is_array(list))
		return err_set(e, 0, "up is not an array");
	json_array_foreach(list, i, pair)
	{
		const json_t *name = json_array_get(pair, 0);
		const json_t *value = json_array_get(pair, 1);

		if (json_array_size(pair) != 2 || !json_is_string(name) || !json_is_string(value) ||
		    json_string_length(name) > TEXT_MAX || json_string_length(value) > TEXT_MAX)
			return err_set(e, 0, "up is not an array of pairs of texts");
		raw_property(&b->raw, PROP_USER,
		             slice(json_string_value(name), json_string_length(name)));
		buf_u16be(&b->raw, (uint16_t)json_string_length(value));
		buf_append(&b->raw, json_string_value(value), json_string_length(value));
	}
	return 0;
}

static int decode_properties(struct batch *b, const json_t *object, struct place *out,
                             struct err *e)
{
	size_t before = b->raw.len;
	uint64_t format;

	if (get_number(object, "pf", UINT64_MAX, 1, &format, e))
		return -1;
	if (format != UINT64_MAX) {
		buf_u8(&b->raw, PROP_FORMAT);
		buf_u8(&b->raw, (uint8_t)format);
	}
	if (decode_text_property(b, object, "ct", PROP_CONTENT_TYPE, e) ||
	    decode_text_property(b, object, "rt", PROP_RESPONSE_TOPIC, e) ||
	    decode_correlation(b, object, e) || decode_user_properties(b, object, e))
		return -1;
	*out = (struct place){.at = (uint32_t)before | IN_RAW,
	                      .n = (uint32_t)(b->raw.len - before)};
	return 0;
}

static int decode_body(const struct batch *b, const json_t *object, struct item *it, struct err *e)
{
	uint64_t at;
	uint64_t n;

	if (get_number(object, "o", UINT64_MAX, BODY_MAX, &at, e) ||
	    get_number(object, "l", UINT64_MAX, BODY_MAX, &n, e))
		return -1;
	if (at > b->body.len || n > b->body.len - at)
		return err_set(e, 0, "a payload lies outside the body of %zu bytes", b->body.len);
	it->body_at = (uint32_t)at;
	it->body_n = (uint32_t)n;
	return 0;
}

static int decode_item(struct batch *b, const json_t *object, struct err *e)
{
	struct item *it = item_add(b);
	struct slice topic;
	struct slice client;
	struct slice key;
	uint64_t qos;

	*it = (struct item){0};
	if (!json_is_object(object))
		return err_set(e, 0, "an event is not an object");
	if (get_text(object, "topic", &topic, e) || get_text(object, "client", &client, e) ||
	    get_text(object, "key", &key, e) || get_number(object, "q", 1, 2, &qos, e) ||
	    get_number(object, "exp", 0, INT64_MAX, &it->expires_ms, e))
		return -1;
	if (!topic.n)
		return err_set(e, 0, "an event has no topic");
	it->qos = (uint8_t)qos;
	it->topic = put_raw(b, topic);
	it->client = put_raw(b, client);
	it->key = put_raw(b, key);
	if (decode_properties(b, object, &it->props, e) || decode_body(b, object, it, e))
		return -1;
	b->n++;
	return 0;
}

static int decode_items(struct batch *b, uint32_t event_count, struct err *e)
{
	json_error_t why;
	json_t *list =
	        json_loadb(b->attributes.data, b->attributes.len, JSON_REJECT_DUPLICATES, &why);
	size_t i;
	const json_t *object;
	int rc = 0;

	if (!json_is_array(list))
		rc = err_set(e, 0, "attributes are not a JSON array (byte %d)", why.position);
	else if (json_array_size(list) != event_count)
		rc = err_set(e, 0, "attributes hold %zu events, the row says %u",
		             json_array_size(list), event_count);
	if (rc == 0) {
		json_array_foreach(list, i, object)
		{
			rc = decode_item(b, object, e);
			if (rc)
				break;
		}
	}
	json_decref(list);
	return rc;
}

struct batch *batch_decode(uint32_t tenant_id, uint32_t partition_id, uint64_t base_seq,
                           uint32_t event_count, struct slice attributes, struct slice body,
                           struct err *e)
{
	struct batch *b;

	if (event_count < 1 || event_count > BATCH_MAX_EVENTS || base_seq < 1 ||
	    base_seq > UINT64_MAX - event_count || attributes.n > ATTRIBUTES_MAX ||
	    body.n > BODY_MAX) {
		err_set(e, 0, "count, number or size is out of range");
		return NULL;
	}
	b = batch_new(tenant_id, partition_id);
	b->sealed = true;
	b->base_seq = base_seq;
	buf_append_slice(&b->attributes, attributes);
	buf_append_slice(&b->body, body);
	if (decode_items(b, event_count, e)) {
		batch_unref(b);
		return NULL;
	}
	return b;
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
	return sizeof *b + b->cap * sizeof *b->items + b->attributes.cap + b->body.cap + b->raw.cap;
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
	const struct item *it;

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
}

struct publisher batch_publisher(const struct batch *b, uint32_t i)
{
	assert(i < b->n);
	return b->items[i].from;
}
