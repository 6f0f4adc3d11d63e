#include "node/mqtt/mqtt_props.h"

#include "base/utf8.h"
#include "node/mqtt/mqtt_reason.h"

#include <assert.h>

enum prop_type { NONE, U8, U16, U32, VARINT, STR, BIN, PAIR };
enum prop_rule { ANY, BOOL, NONZERO, TOPIC };
enum { PROP_IDS = 64 }; /* room in `have`; the highest id in use is 42 */

struct prop_info {
	uint8_t type;     /* enum prop_type; NONE = no such property */
	uint8_t rule;     /* enum prop_rule */
	uint16_t places;  /* enum mqtt_place bits */
	uint16_t repeats; /* enum mqtt_place bits */
	uint16_t offset;  /* of its field in struct mqtt_props */
};

static const struct prop_info props[PROP_IDS] = {
#define MQTT_PROP(id, NAME, field, TYPE, RULE, where, again) \
	[id] = {.type = (TYPE),                              \
	        .rule = (RULE),                              \
	        .places = (where),                           \
	        .repeats = (again),                          \
	        .offset = offsetof(struct mqtt_props, field)},
#include "node/mqtt/mqtt_props.def"
#undef MQTT_PROP
};

#define BIT(id) (UINT64_C(1) << (id))

/* What an application message keeps on its way through a server. */
#define FORWARDED                                                          \
	(BIT(MQTT_PROP_PAYLOAD_FORMAT) | BIT(MQTT_PROP_CONTENT_TYPE) |     \
	 BIT(MQTT_PROP_RESPONSE_TOPIC) | BIT(MQTT_PROP_CORRELATION_DATA) | \
	 BIT(MQTT_PROP_USER_PROPERTY))

static const struct prop_info *prop_info(unsigned id)
{
	return id < PROP_IDS && props[id].type != NONE ? &props[id] : NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

static uint32_t be(const char *p, size_t n)
{
	uint32_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | (uint8_t)p[i];
	return v;
}

static bool take_number(struct slice *rest, size_t width, uint32_t *v)
{
	if (rest->n < width)
		return false;
	*v = be(rest->p, width);
	*rest = slice(rest->p + width, rest->n - width);
	return true;
}

static bool take_bytes(struct slice *rest, struct slice *s)
{
	uint32_t n;

	if (!take_number(rest, 2, &n) || rest->n < n)
		return false;
	*s = slice(rest->p, n);
	*rest = slice(rest->p + n, rest->n - n);
	return true;
}

static bool take_varint(struct slice *rest, uint32_t *v)
{
	int n = mqtt_varint_read(rest->p, rest->n, v);

	if (n <= 0)
		return false;
	*rest = slice(rest->p + n, rest->n - (size_t)n);
	return true;
}

static bool take_value(struct slice *rest, enum prop_type type, struct mqtt_prop *out)
{
	switch (type) {
	case U8:
		return take_number(rest, 1, &out->number);
	case U16:
		return take_number(rest, 2, &out->number);
	case U32:
		return take_number(rest, 4, &out->number);
	case VARINT:
		return take_varint(rest, &out->number);
	case PAIR:
		return take_bytes(rest, &out->key) && take_bytes(rest, &out->value);
	default:
		return take_bytes(rest, &out->value);
	}
}

bool mqtt_prop_next(struct slice *rest, struct mqtt_prop *out)
{
	const struct prop_info *info = rest->n ? prop_info((uint8_t)rest->p[0]) : NULL;
	struct slice left;

	if (!info)
		return false;
	*out = (struct mqtt_prop){.id = (uint8_t)rest->p[0]};
	left = slice(rest->p + 1, rest->n - 1);
	if (!take_value(&left, info->type, out))
		return false;
	out->wire = slice(rest->p, (size_t)(left.p - rest->p));
	*rest = left;
	return true;
}

bool mqtt_user_prop_next(struct slice *rest, struct slice *key, struct slice *value)
{
	struct mqtt_prop p;

	while (mqtt_prop_next(rest, &p)) {
		if (p.id == MQTT_PROP_USER_PROPERTY) {
			*key = p.key;
			*value = p.value;
			return true;
		}
	}
	return false;
}

bool mqtt_user_prop_again(struct slice rest, struct slice key)
{
	struct slice other;
	struct slice value;

	while (mqtt_user_prop_next(&rest, &other, &value)) {
		if (slice_eq(other, key))
			return true;
	}
	return false;
}

bool mqtt_sub_id_next(struct slice *rest, uint32_t *id)
{
	struct mqtt_prop p;

	while (mqtt_prop_next(rest, &p)) {
		if (p.id == MQTT_PROP_SUBSCRIPTION_ID) {
			*id = p.number;
			return true;
		}
	}
	return false;
}

/* ---- checking -------------------------------------------------------------------------------- */

static const char *fail(uint8_t *reason, uint8_t code, const char *text)
{
	*reason = code;
	return text;
}

static bool has_wildcard(struct slice s)
{
	return s.n && (memchr(s.p, '+', s.n) || memchr(s.p, '#', s.n));
}

static const char *check_text(const struct prop_info *info, const struct mqtt_prop *p,
                              uint8_t *reason)
{
	if (info->type != STR && info->type != PAIR)
		return NULL;
	if (!utf8_valid_text(p->key) || !utf8_valid_text(p->value))
		return fail(reason, MQTT_REASON_MALFORMED_PACKET, "property text is not UTF-8");
	return NULL;
}

static const char *check_rule(const struct prop_info *info, const struct mqtt_prop *p,
                              uint8_t *reason)
{
	if (info->rule == BOOL && p->number > 1)
		return fail(reason, MQTT_REASON_PROTOCOL_ERROR, "property must be 0 or 1");
	if (info->rule == NONZERO && p->number == 0)
		return fail(reason,
		            p->id == MQTT_PROP_TOPIC_ALIAS ? MQTT_REASON_TOPIC_ALIAS_INVALID
		                                           : MQTT_REASON_PROTOCOL_ERROR,
		            "property must not be 0");
	if (info->rule == TOPIC && has_wildcard(p->value))
		return fail(reason, MQTT_REASON_PROTOCOL_ERROR, "response topic has a wildcard");
	return NULL;
}

static void store(struct mqtt_props *out, const struct prop_info *info, const struct mqtt_prop *p)
{
	char *field = (char *)out + info->offset;

	out->have |= BIT(p->id);
	switch ((enum prop_type)info->type) {
	case U8:
		*(uint8_t *)field = (uint8_t)p->number;
		break;
	case U16: {
		uint16_t v = (uint16_t)p->number;

		memcpy(field, &v, sizeof v);
		break;
	}
	case U32:
	case VARINT:
		memcpy(field, &p->number, sizeof p->number);
		break;
	default:
		memcpy(field, &p->value, sizeof p->value);
	}
}

static const char *accept(struct mqtt_props *out, const struct mqtt_prop *p, enum mqtt_place place,
                          uint8_t *reason)
{
	const struct prop_info *info = &props[p->id];
	const char *why;

	if (!(info->places & place))
		return fail(reason, MQTT_REASON_MALFORMED_PACKET,
		            "property does not belong in this packet");
	why = check_text(info, p, reason);
	if (!why)
		why = check_rule(info, p, reason);
	if (why)
		return why;
	if (!mqtt_has(out, p->id))
		store(out, info, p);
	else if (!(info->repeats & place))
		return fail(reason, MQTT_REASON_PROTOCOL_ERROR, "property stands twice");
	return NULL;
}

const char *mqtt_props_parse(struct mqtt_props *out, struct slice block, enum mqtt_place place,
                             uint8_t *reason)
{
	struct slice rest = block;
	struct mqtt_prop p;

	*out = (struct mqtt_props){.raw = block};
	while (mqtt_prop_next(&rest, &p)) {
		const char *why = accept(out, &p, place, reason);

		if (why)
			return why;
	}
	if (!rest.n)
		return NULL;
	return fail(reason, MQTT_REASON_MALFORMED_PACKET,
	            prop_info((uint8_t)rest.p[0]) ? "property value is cut off or malformed"
	                                          : "unknown property");
}

/* ---- writing --------------------------------------------------------------------------------- */

void mqtt_props_forward(struct buf *out, const struct mqtt_props *p)
{
	struct slice rest = p->raw;
	struct mqtt_prop prop;

	if (!(p->have & ~FORWARDED)) {
		buf_append_slice(out, p->raw);
		return;
	}
	while (mqtt_prop_next(&rest, &prop)) {
		if (BIT(prop.id) & FORWARDED)
			buf_append_slice(out, prop.wire);
	}
}

static void put_varint(struct buf *out, uint32_t v)
{
	mqtt_varint_write(buf_extend(out, mqtt_varint_size(v)), v);
}

void mqtt_put_number(struct buf *out, enum mqtt_prop_id id, uint32_t v)
{
	buf_u8(out, (uint8_t)id);
	switch ((enum prop_type)props[id].type) {
	case U8:
		buf_u8(out, (uint8_t)v);
		break;
	case U16:
		buf_u16be(out, (uint16_t)v);
		break;
	case U32:
		buf_u32be(out, v);
		break;
	default:
		assert(props[id].type == VARINT);
		put_varint(out, v);
	}
}

static void put_string(struct buf *out, struct slice s)
{
	assert(s.n <= UINT16_MAX);
	buf_u16be(out, (uint16_t)s.n);
	buf_append_slice(out, s);
}

void mqtt_put_bytes(struct buf *out, enum mqtt_prop_id id, struct slice v)
{
	buf_u8(out, (uint8_t)id);
	put_string(out, v);
}

void mqtt_put_user(struct buf *out, struct slice key, struct slice value)
{
	buf_u8(out, MQTT_PROP_USER_PROPERTY);
	put_string(out, key);
	put_string(out, value);
}

static void put_field(struct buf *out, const struct mqtt_props *p, enum mqtt_prop_id id)
{
	const char *field = (const char *)p + props[id].offset;
	struct slice s;
	uint32_t u32;
	uint16_t u16;

	switch ((enum prop_type)props[id].type) {
	case U8:
		mqtt_put_number(out, id, *(const uint8_t *)field);
		break;
	case U16:
		memcpy(&u16, field, sizeof u16);
		mqtt_put_number(out, id, u16);
		break;
	case U32:
	case VARINT:
		memcpy(&u32, field, sizeof u32);
		mqtt_put_number(out, id, u32);
		break;
	case STR:
	case BIN:
		memcpy(&s, field, sizeof s);
		mqtt_put_bytes(out, id, s);
		break;
	default:
		break; /* pairs come from `extra` */
	}
}

void mqtt_props_encode(struct buf *out, const struct mqtt_props *p)
{
	size_t at = out->len;
	size_t len;
	unsigned width;

	buf_extend(out, 1); /* the length; most blocks are short */
	for (uint64_t left = p ? p->have : 0; left; left &= left - 1)
		put_field(out, p, (enum mqtt_prop_id)__builtin_ctzll(left));
	if (p)
		buf_append_slice(out, p->extra);
	len = out->len - at - 1;
	assert(len <= MQTT_VARINT_MAX);
	width = mqtt_varint_size((uint32_t)len);
	if (width > 1) {
		buf_extend(out, width - 1);
		memmove(out->data + at + width, out->data + at + 1, len);
	}
	mqtt_varint_write(out->data + at, (uint32_t)len);
}

/* ---- variable byte integers ------------------------------------------------------------------ */

char *mqtt_varint_write(char *p, uint32_t v)
{
	while (v >= 128) {
		*p++ = (char)(v | 0x80);
		v >>= 7;
	}
	*p++ = (char)v;
	return p;
}

int mqtt_varint_read(const char *p, size_t n, uint32_t *v)
{
	*v = 0;
	for (int i = 0; i < 4; i++) {
		uint8_t c;

		if ((size_t)i == n)
			return 0;
		c = (uint8_t)p[i];
		*v |= (uint32_t)(c & 0x7f) << 7 * i;
		if (!(c & 0x80))
			return i && !c ? -1 : i + 1; /* a last byte of 0 is not the shortest form */
	}
	return -1;
}
