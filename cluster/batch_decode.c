#include "base/mem.h"
#include "base/utf8.h"
#include "cluster/batch_impl.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <openssl/evp.h>

/* ---- any JSON -----------------------------------------------------------------------------------
 */

/* A text member. 0 also when absent (out empty); -1 when it is no text or too long. */
static int get_text(const json_t *object, const char *key, struct slice *out, struct err *e)
{
	const json_t *v = json_object_get(object, key);

	*out = slice(NULL, 0);
	if (!v)
		return 0;
	if (!json_is_string(v) || json_string_length(v) > BATCH_TEXT_MAX)
		return err_set(e, 0, "%s is not a text of at most %d bytes", key, BATCH_TEXT_MAX);
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
	if (!text || n % 4 || n / 4 * 3 > BATCH_TEXT_MAX + 2)
		return err_set(e, 0, "cd is not base64 of at most %d bytes", BATCH_TEXT_MAX);
	while (padding < 2 && padding < n && text[n - 1 - padding] == '=')
		padding++;
	if (n / 4 * 3 - padding > BATCH_TEXT_MAX)
		return err_set(e, 0, "cd is longer than %d bytes", BATCH_TEXT_MAX);
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
		    json_string_length(name) > BATCH_TEXT_MAX ||
		    json_string_length(value) > BATCH_TEXT_MAX)
			return err_set(e, 0, "up is not an array of pairs of texts");
		raw_property(&b->raw, PROP_USER,
		             slice(json_string_value(name), json_string_length(name)));
		buf_u16be(&b->raw, (uint16_t)json_string_length(value));
		buf_append(&b->raw, json_string_value(value), json_string_length(value));
	}
	return 0;
}

static int decode_properties(struct batch *b, const json_t *object, struct batch_place *out,
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
	*out = (struct batch_place){.at = (uint32_t)before | BATCH_IN_RAW,
	                            .n = (uint32_t)(b->raw.len - before)};
	return 0;
}

static int decode_body(const struct batch *b, const json_t *object, struct batch_item *it,
                       struct err *e)
{
	uint64_t at;
	uint64_t n;

	if (get_number(object, "o", UINT64_MAX, BATCH_BODY_MAX, &at, e) ||
	    get_number(object, "l", UINT64_MAX, BATCH_BODY_MAX, &n, e))
		return -1;
	if (at > b->body.len || n > b->body.len - at)
		return err_set(e, 0, "a payload lies outside the body of %zu bytes", b->body.len);
	it->body_at = (uint32_t)at;
	it->body_n = (uint32_t)n;
	return 0;
}

static int decode_item(struct batch *b, const json_t *object, struct err *e)
{
	struct batch_item *it = batch_item_add(b);
	struct slice topic;
	struct slice client;
	struct slice key;
	uint64_t qos;

	*it = (struct batch_item){0};
	if (!json_is_object(object))
		return err_set(e, 0, "an event is not an object");
	if (get_text(object, "topic", &topic, e) || get_text(object, "client", &client, e) ||
	    get_text(object, "key", &key, e) || get_number(object, "q", 1, 2, &qos, e) ||
	    get_number(object, "exp", 0, INT64_MAX, &it->expires_ms, e))
		return -1;
	if (!topic.n)
		return err_set(e, 0, "an event has no topic");
	it->qos = (uint8_t)qos;
	it->topic = batch_put_raw(b, topic);
	it->client = batch_put_raw(b, client);
	it->key = batch_put_raw(b, key);
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

void batch_object(const struct batch *b, uint32_t i, struct buf *out)
{
	json_t *list = json_loadb(b->attributes.data, b->attributes.len, 0, NULL);
	json_t *object = json_array_get(list, i);
	char *text;

	json_object_del(object, "o");
	json_object_del(object, "l");
	text = object ? json_dumps(object, JSON_COMPACT) : NULL;
	if (text)
		buf_append(out, text, strlen(text) - 1);
	else
		fatal("an event that was decoded is no JSON object");
	free(text);
	json_decref(list);
}

/* ---- rows as we write them ----------------------------------------------------------------------
 */

/* Most rows hold nothing but what batch.c writes for an event without properties, so they are read
 * without a JSON parser, in place, at a tenth of its cost. This reader knows exactly that form; at
 * anything else it gives up, and the JSON parser decides. */
struct scan {
	const char *p;
	const char *end;
};

static bool scan_literal(struct scan *s, const char *text, size_t n)
{
	if ((size_t)(s->end - s->p) < n || memcmp(s->p, text, n) != 0)
		return false;
	s->p += n;
	return true;
}

#define SCAN(s, text) scan_literal((s), "" text, sizeof(text) - 1)

/* A string without escapes, from behind its opening quote. */
static bool scan_text(struct scan *s, const struct batch *b, struct batch_place *out)
{
	const char *from = s->p;

	while (s->p < s->end && *s->p != '"') {
		if (*s->p == '\\' || (unsigned char)*s->p < 0x20)
			return false;
		s->p++;
	}
	if (s->p == s->end || s->p - from > BATCH_TEXT_MAX)
		return false;
	*out = (struct batch_place){.at = (uint32_t)(from - b->attributes.data),
	                            .n = (uint32_t)(s->p - from)};
	s->p++;
	return true;
}

static bool scan_number(struct scan *s, uint64_t max, uint64_t *out)
{
	const char *from = s->p;
	uint64_t v = 0;

	while (s->p < s->end && s->p - from < 18 && *s->p >= '0' && *s->p <= '9')
		v = v * 10 + (uint64_t)(*s->p++ - '0');
	if (s->p == from || v > max || (*from == '0' && s->p - from > 1))
		return false;
	*out = v;
	return true;
}

static bool scan_item(struct scan *s, struct batch *b)
{
	struct batch_item *it = batch_item_add(b);
	const char *from = s->p;
	uint64_t qos = 1;
	uint64_t at;
	uint64_t n;

	*it = (struct batch_item){0};
	if (!SCAN(s, "{\"topic\":\"") || !scan_text(s, b, &it->topic) || !it->topic.n)
		return false;
	if (SCAN(s, ",\"q\":") && !scan_number(s, 2, &qos))
		return false;
	if (SCAN(s, ",\"client\":\"") && !scan_text(s, b, &it->client))
		return false;
	if (SCAN(s, ",\"key\":\"") && !scan_text(s, b, &it->key))
		return false;
	if (SCAN(s, ",\"exp\":") && !scan_number(s, INT64_MAX, &it->expires_ms))
		return false;
	it->attr_at = (uint32_t)(from - b->attributes.data);
	it->attr_n = (uint32_t)(s->p - from);
	if (!SCAN(s, ",\"o\":") || !scan_number(s, b->body.len, &at) || !SCAN(s, ",\"l\":") ||
	    !scan_number(s, b->body.len - at, &n) || !SCAN(s, "}"))
		return false;
	it->qos = (uint8_t)qos;
	it->body_at = (uint32_t)at;
	it->body_n = (uint32_t)n;
	b->n++;
	return true;
}

static bool scan_items(struct batch *b, uint32_t event_count)
{
	struct scan s;

	if (!b->attributes.len)
		return false;
	s = (struct scan){b->attributes.data, b->attributes.data + b->attributes.len};
	for (uint32_t i = 0; i < event_count; i++) {
		if (!scan_literal(&s, i ? "," : "[", 1) || !scan_item(&s, b))
			return false;
	}
	return SCAN(&s, "]") && s.p == s.end && utf8_valid_text(buf_slice(&b->attributes));
}

/* ---- the row ------------------------------------------------------------------------------------
 */

struct batch *batch_decode(uint32_t tenant_id, uint32_t partition_id, uint64_t base_seq,
                           uint32_t event_count, struct slice attributes, struct slice body,
                           struct err *e)
{
	struct batch *b;

	if (event_count < 1 || event_count > BATCH_MAX_EVENTS || base_seq < 1 ||
	    base_seq > UINT64_MAX - event_count || attributes.n > BATCH_ATTRIBUTES_MAX ||
	    body.n > BATCH_BODY_MAX) {
		err_set(e, 0, "count, number or size is out of range");
		return NULL;
	}
	b = batch_new(tenant_id, partition_id);
	b->sealed = true;
	b->base_seq = base_seq;
	buf_append_slice(&b->attributes, attributes);
	buf_append_slice(&b->body, body);
	if (scan_items(b, event_count))
		return b;
	b->n = 0;
	if (decode_items(b, event_count, e)) {
		batch_unref(b);
		return NULL;
	}
	return b;
}
