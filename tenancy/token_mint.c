#include "tenancy/token_mint.h"

#include "base/id128.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "tenancy/acl.h"
#include "tenancy/base64url.h"
#include "tenancy/registry.h"
#include "tenancy/token.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int check_text(const char *what, const char *s, size_t max, struct err *e)
{
	size_t n = s ? strlen(s) : 0;

	if (n == 0 || n > max || !utf8_valid_text(slice(s, n)))
		return err_set(e, 0, "%s must be 1 to %zu bytes of UTF-8", what, max);
	return 0;
}

static int check_spec(const struct token_spec *s, struct err *e)
{
	for (size_t i = 0; i < s->publish_count + s->subscribe_count; i++) {
		const char *f =
		        i < s->publish_count ? s->publish[i] : s->subscribe[i - s->publish_count];

		if (!utf8_valid_text(slice_str(f)))
			return err_set(e, 0, "a filter is not UTF-8");
	}
	if (s->expires_s <= s->issued_s)
		return err_set(e, 0, "the token would expire before it is issued");
	if (check_text("issuer", s->issuer, REGISTRY_ISSUER_MAX, e) < 0 ||
	    check_text("subject", s->subject, TOKEN_SUBJECT_MAX, e) < 0 ||
	    check_text("audience", s->audience, TOKEN_SUBJECT_MAX, e) < 0)
		return -1;
	return registry_kid_check(slice_str(s->kid), e);
}

static void add_entry(json_t *acl, const char *action, const char *const *filters, size_t n)
{
	json_t *topics = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(topics, json_string(filters[i]));
	if (n)
		json_array_append_new(acl, json_pack("{s:s, s:s, s:O}", "permission", "allow",
		                                     "action", action, "topics", topics));
	json_decref(topics);
}

/* A whole number from 1 on that JSON holds. */
static bool whole_number(const char *text, json_int_t *n)
{
	char *end;

	errno = 0;
	*n = strtoll(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && errno == 0 && *n > 0;
}

static int take_limit(const char *text, json_t *limits, struct err *e)
{
	const char *eq = strchr(text, '=');
	char name[32];
	json_int_t n;

	if (!eq || !utf8_valid_text(slice_str(text)) || !whole_number(eq + 1, &n))
		return err_set(e, 0, "a limit is NAME=N with a whole number from 1 on, not %.60s",
		               log_quote_str(text));
	snprintf(name, sizeof name, "%.*s", (int)(eq - text), text);
	if (json_object_get(limits, name))
		return err_set(e, 0, "limit %s is there twice", name);
	json_object_set_new(limits, name, json_integer(n));
	return 0;
}

/* The claim; NULL with e where one of them is none. */
static json_t *make_limits(const struct token_spec *s, struct err *e)
{
	json_t *limits = json_object();
	struct token_limits parsed;
	int rc = 0;

	for (size_t i = 0; i < s->limits_count && rc == 0; i++)
		rc = take_limit(s->limits[i], limits, e);
	if (rc == 0 && token_limits_parse(limits, &parsed, e) == 0)
		return limits;
	json_decref(limits);
	return NULL;
}

static json_t *make_payload(const struct token_spec *s)
{
	json_t *acl = json_array();
	char id[ID128_HEX];
	struct id128 random = id128_random();

	id128_hex(&random, id);
	add_entry(acl, "publish", s->publish, s->publish_count);
	add_entry(acl, "subscribe", s->subscribe, s->subscribe_count);
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:o}", "iss", s->issuer, "sub", s->subject,
	                 "aud", s->audience, "jti", id, "iat", (json_int_t)s->issued_s, "exp",
	                 (json_int_t)s->expires_s, "acl", acl);
}

int token_sign(const struct jws_key *key, struct slice header, struct slice payload,
               struct buf *out, struct err *e)
{
	size_t start = out->len;
	struct buf sig = {0};
	int rc;

	base64url_encode(header, out);
	buf_u8(out, '.');
	base64url_encode(payload, out);
	rc = jws_sign(key, slice(out->data + start, out->len - start), &sig, e);
	if (rc == 0) {
		buf_u8(out, '.');
		base64url_encode(buf_slice(&sig), out);
	} else {
		out->len = start;
	}
	buf_release(&sig);
	return rc;
}

static int sign_json(const struct jws_key *key, const json_t *header, const json_t *payload,
                     struct buf *out, struct err *e)
{
	char *h = json_dumps(header, JSON_COMPACT), *p = json_dumps(payload, JSON_COMPACT);
	int rc;

	if (!h || !p)
		fatal("cannot write JSON");
	rc = token_sign(key, slice_str(h), slice_str(p), out, e);
	free(h);
	free(p);
	return rc;
}

int token_mint(const struct jws_key *key, const struct token_spec *spec, struct buf *out,
               struct err *e)
{
	size_t start = out->len;
	json_t *header, *payload;
	json_t *limits;
	struct acl *acl;
	int rc = -1;

	if (check_spec(spec, e) < 0 || !(limits = make_limits(spec, e)))
		return -1;
	payload = make_payload(spec);
	if (json_object_size(limits))
		json_object_set(payload, "limits", limits);
	json_decref(limits);
	header = json_pack("{s:s, s:s, s:s}", "alg", jws_alg_name(jws_key_alg(key)), "typ", "JWT",
	                   "kid", spec->kid);
	acl = acl_parse(json_object_get(payload, "acl"), e);
	if (acl)
		rc = sign_json(key, header, payload, out, e);
	if (rc == 0 && out->len - start > TOKEN_MAX_BYTES) {
		rc = err_set(e, 0, "the token would have %zu bytes; at most %d are allowed",
		             out->len - start, TOKEN_MAX_BYTES);
		out->len = start;
	}
	acl_free(acl);
	json_decref(header);
	json_decref(payload);
	return rc;
}
