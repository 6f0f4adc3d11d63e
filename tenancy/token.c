#include "tenancy/token.h"

#include "base/log.h"
#include "base/mem.h"
#include "tenancy/base64url.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

enum { STAMP_MAX = sizeof "2026-01-01T00:00:00Z" + 16 };

/* One token on its way through. */
struct parts {
	struct slice header64, payload64, signature64;
	struct slice signed_part; /* header.payload, as sent */
	struct buf signature;
	json_t *header;
	json_t *payload;
	enum jws_alg alg;
	struct slice kid; /* inside header */
	struct registry_match match;
};

const char *token_refusal_name(enum token_refusal why)
{
	static const char *const names[] = {
	        "ok",
#define TOKEN_REFUSAL(name, text) text,
#include "tenancy/token_refusal.def"
#undef TOKEN_REFUSAL
	};

	return names[why];
}

int token_refuse(struct token_answer *a, enum token_refusal why, const char *fmt, ...)
{
	va_list ap;

	a->why = why;
	va_start(ap, fmt);
	vsnprintf(a->text, sizeof a->text, fmt, ap);
	va_end(ap);
	return -1;
}

static struct slice json_slice(const json_t *v)
{
	return slice(json_string_value(v), json_string_length(v));
}

/* ---- the three parts ---- */

static int split(struct slice text, struct parts *p, struct token_answer *a)
{
	const char *end = text.p + text.n, *dot1, *dot2;

	if (text.n > TOKEN_MAX_BYTES)
		return token_refuse(a, TOKEN_TOO_LONG,
		                    "token has %zu bytes; at most %d are allowed", text.n,
		                    TOKEN_MAX_BYTES);
	dot1 = text.n ? memchr(text.p, '.', text.n) : NULL;
	dot2 = dot1 ? memchr(dot1 + 1, '.', (size_t)(end - dot1 - 1)) : NULL;
	if (!dot2 || memchr(dot2 + 1, '.', (size_t)(end - dot2 - 1)))
		return token_refuse(
		        a, TOKEN_MALFORMED,
		        "not a JWT: it must have three parts, header.payload.signature");
	p->header64 = slice(text.p, (size_t)(dot1 - text.p));
	p->payload64 = slice(dot1 + 1, (size_t)(dot2 - dot1 - 1));
	p->signature64 = slice(dot2 + 1, (size_t)(end - dot2 - 1));
	p->signed_part = slice(text.p, (size_t)(dot2 - text.p));
	return 0;
}

/* How deep JSON text nests. Bytes inside strings do not count. */
static int json_depth(struct slice text)
{
	int depth = 0, deepest = 0;
	bool in_string = false;

	for (size_t i = 0; i < text.n; i++) {
		char c = text.p[i];

		if (in_string && c == '\\')
			i++;
		else if (c == '"')
			in_string = !in_string;
		else if (!in_string && (c == '{' || c == '['))
			deepest = ++depth > deepest ? depth : deepest;
		else if (!in_string && (c == '}' || c == ']'))
			depth--;
	}
	return deepest;
}

/* In our words: jansson's quote the token, which need not be fit for a reason string. */
static int refuse_json(const json_error_t *why, const char *what, struct token_answer *a)
{
	static const struct {
		enum json_error_code code;
		const char *text;
	} known[] = {
	        {json_error_duplicate_key, "has a member twice"},
	        {json_error_null_character, "contains U+0000"},
	        {json_error_invalid_utf8, "is not UTF-8"},
	        {json_error_numeric_overflow, "has a number that is too large"},
	};

	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		if (json_error_code(why) == known[i].code)
			return token_refuse(a, TOKEN_MALFORMED, "token %s %s", what, known[i].text);
	}
	return token_refuse(a, TOKEN_MALFORMED, "token %s is not JSON, at byte %d", what,
	                    why->position);
}

/* One part as a JSON object; NULL with the answer. */
static json_t *decode_object(struct slice text64, const char *what, struct token_answer *a)
{
	struct buf text = {0};
	json_error_t why;
	json_t *v = NULL;

	if (base64url_decode(text64, &text) < 0) {
		token_refuse(a, TOKEN_MALFORMED, "token %s is not base64url without padding", what);
	} else if (json_depth(buf_slice(&text)) > TOKEN_MAX_DEPTH) {
		token_refuse(a, TOKEN_MALFORMED, "token %s nests deeper than %d levels", what,
		             TOKEN_MAX_DEPTH);
	} else if (!(v = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, &why))) {
		refuse_json(&why, what, a);
	} else if (!json_is_object(v)) {
		token_refuse(a, TOKEN_MALFORMED, "token %s is not a JSON object", what);
		json_decref(v);
		v = NULL;
	}
	buf_release(&text);
	return v;
}

static int decode(struct parts *p, struct token_answer *a)
{
	p->header = decode_object(p->header64, "header", a);
	if (!p->header)
		return -1;
	p->payload = decode_object(p->payload64, "payload", a);
	if (!p->payload)
		return -1;
	if (p->signature64.n > (JWS_SIGNATURE_MAX + 2) / 3 * 4 ||
	    base64url_decode(p->signature64, &p->signature) < 0)
		return token_refuse(a, TOKEN_MALFORMED,
		                    "token signature is not base64url without padding");
	return 0;
}

/* ---- the header ---- */

/* Members that let a token bring or choose its own key or rules (RFC 8725, sections 3.1 and 3.10).
 */
static const char *const forbidden[] = {"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"};

static int check_typ(const json_t *typ, struct token_answer *a)
{
	const char *s = json_string_value(typ);

	if (!typ || (s && (strcasecmp(s, "JWT") == 0 || strcasecmp(s, "at+jwt") == 0 ||
	                   strcasecmp(s, "application/at+jwt") == 0)))
		return 0;
	return token_refuse(a, TOKEN_HEADER, "header typ must be absent, JWT or at+jwt");
}

static int check_header(struct parts *p, struct token_answer *a)
{
	const json_t *alg = json_object_get(p->header, "alg");
	const json_t *kid = json_object_get(p->header, "kid");
	struct err e;

	for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
		if (json_object_get(p->header, forbidden[i]))
			return token_refuse(a, TOKEN_HEADER, "header %s is not accepted",
			                    forbidden[i]);
	}
	if (check_typ(json_object_get(p->header, "typ"), a) < 0)
		return -1;
	if (!json_is_string(alg))
		return token_refuse(a, TOKEN_ALGORITHM, "header alg is missing; use one of %s",
		                    jws_alg_list);
	if (jws_alg_parse(json_slice(alg), &p->alg) < 0)
		return token_refuse(
		        a, TOKEN_ALGORITHM, "algorithm %.100s is not accepted; use one of %s",
		        log_quote(json_string_value(alg), json_string_length(alg)), jws_alg_list);
	if (!json_is_string(kid))
		return token_refuse(a, TOKEN_HEADER, "header kid is missing; it names the key");
	p->kid = json_slice(kid);
	if (registry_kid_check(p->kid, &e) < 0)
		return token_refuse(a, TOKEN_HEADER, "header %s", e.text);
	return 0;
}

/* ---- the key and the signature ---- */

static int claim_string(const json_t *payload, const char *name, size_t max, struct slice *out,
                        struct token_answer *a)
{
	const json_t *v = json_object_get(payload, name);

	if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) > max)
		return token_refuse(a, TOKEN_CLAIM, "claim %s must be a string of 1 to %zu bytes",
		                    name, max);
	*out = json_slice(v);
	return 0;
}

int token_refuse_unverified(struct token_answer *a, const char *detail)
{
	snprintf(a->detail, sizeof a->detail, "%s", detail);
	return token_refuse(
	        a, TOKEN_UNVERIFIED,
	        "no key known here verifies this token; check its iss, kid, alg and signature");
}

/* Of an identity provider's token, whose signature is good: whom does it belong to? Who names a
 * tenant that is not there is told no more than who has no key. */
static int find_tenant(struct registry *r, struct parts *p, struct token_answer *a)
{
	const struct issuer *i = p->match.issuer;
	const json_t *claim;

	if (!i)
		return 0;
	claim = json_object_get(p->payload, i->tenant_claim);
	if (i->tenant_id)
		p->match.tenant = registry_tenant(r, i->tenant_id);
	else if (json_is_string(claim))
		p->match.tenant = registry_tenant_by_name(r, json_slice(claim));
	return p->match.tenant ? 0 : token_refuse_unverified(a, "it names no tenant that there is");
}

static int check_signature(struct registry *r, struct parts *p, struct token_answer *a)
{
	struct slice issuer = {0};
	bool good;

	/* not trusted: it only says which key to try, and the key's row must have it too */
	if (claim_string(p->payload, "iss", REGISTRY_ISSUER_MAX, &issuer, a) < 0)
		return -1;
	registry_find_key(r, issuer, p->kid, p->alg, &p->match);
	good = jws_verify(p->match.key, p->signed_part, buf_slice(&p->signature));
	if (!p->match.tenant && !p->match.issuer)
		return token_refuse_unverified(a, p->match.why_not);
	return good ? find_tenant(r, p, a)
	            : token_refuse_unverified(a, "the signature is not the key's");
}

/* ---- the claims ---- */

static const char *stamp(uint64_t s, char out[STAMP_MAX])
{
	time_t t = (time_t)s;
	struct tm tm;

	if (s > INT32_MAX * UINT64_C(100) || !gmtime_r(&t, &tm) ||
	    !strftime(out, STAMP_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm))
		snprintf(out, STAMP_MAX, "%" PRIu64, s);
	return out;
}

/* A NumericDate. Whole seconds only: a fraction is legal in RFC 7519, but no issuer needs it and a
 * parser that differs from the issuer's here would differ in who gets in. */
static int claim_time(const json_t *payload, const char *name, bool required, uint64_t *out,
                      struct token_answer *a)
{
	const json_t *v = json_object_get(payload, name);

	*out = 0;
	if (!v && !required)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) <= 0)
		return token_refuse(a, TOKEN_CLAIM,
		                    "claim %s must be a whole number of seconds since 1970%s", name,
		                    v ? "" : "; it is missing");
	*out = (uint64_t)json_integer_value(v);
	return 0;
}

static int check_ahead(const char *name, uint64_t s, uint64_t now_s, struct token_answer *a)
{
	char at[STAMP_MAX], now[STAMP_MAX];

	if (s <= now_s + TOKEN_LEEWAY_S)
		return 0;
	return token_refuse(
	        a, TOKEN_NOT_YET,
	        "token is not good before %s (%s); it is %s here: wait, or check the clocks",
	        stamp(s, at), name, stamp(now_s, now));
}

static int check_times(const struct token_settings *s, const json_t *payload, uint64_t now_s,
                       struct claims *out, struct token_answer *a)
{
	uint64_t not_before, from;
	char at[STAMP_MAX], now[STAMP_MAX];

	if (claim_time(payload, "exp", true, &out->expires_s, a) < 0 ||
	    claim_time(payload, "nbf", false, &not_before, a) < 0 ||
	    claim_time(payload, "iat", false, &out->issued_s, a) < 0)
		return -1;
	if (now_s >= out->expires_s)
		return token_refuse(a, TOKEN_EXPIRED,
		                    "token expired at %s; it is %s here: get a new one",
		                    stamp(out->expires_s, at), stamp(now_s, now));
	if (check_ahead("nbf", not_before, now_s, a) < 0 ||
	    check_ahead("iat", out->issued_s, now_s, a) < 0)
		return -1;
	from = out->issued_s && out->issued_s < out->expires_s ? out->issued_s : now_s;
	if (s->max_lifetime_s && out->expires_s - from > s->max_lifetime_s)
		return token_refuse(a, TOKEN_LIFETIME,
		                    "token is good for %" PRIu64 " s; at most %" PRIu64
		                    " s are allowed",
		                    out->expires_s - from, s->max_lifetime_s);
	return 0;
}

static bool is_audience(const json_t *v, const char *wanted)
{
	return json_is_string(v) && slice_eq(json_slice(v), slice_str(wanted));
}

static int check_audience(const char *wanted, const json_t *payload, struct token_answer *a)
{
	const json_t *aud = json_object_get(payload, "aud");
	bool found = is_audience(aud, wanted);

	for (size_t i = 0; i < json_array_size(aud); i++)
		found = found || is_audience(json_array_get(aud, i), wanted);
	return found ? 0
	             : token_refuse(a, TOKEN_AUDIENCE, "claim aud must contain \"%.100s\"", wanted);
}

/* The claim acl; of a token without one, the scopes in scope, else in scp. Of an identity
 * provider's token, the one claim that its row names. */
static struct acl *permissions(const struct issuer *i, const json_t *payload, struct err *e)
{
	const json_t *acl = json_object_get(payload, "acl"),
	             *scope = json_object_get(payload, "scope");

	if (i && strcmp(i->permissions, "acl") != 0)
		return acl_parse_scopes(i->permissions, json_object_get(payload, i->permissions),
		                        e);
	if (i || acl)
		return acl_parse(acl, e);
	return scope ? acl_parse_scopes("scope", scope, e)
	             : acl_parse_scopes("scp", json_object_get(payload, "scp"), e);
}

/* What only counts once the token is known to be in order. */
int token_check_standing(const struct registry *r, const struct claims *c, struct token_answer *a)
{
	if (claims_revoked(r, c))
		return token_refuse(a, TOKEN_REVOKED, "the %s was revoked: get a new one",
		                    c->by_certificate ? "certificate" : "token");
	if (c->tenant->state != TENANT_ACTIVE)
		return token_refuse(a, TOKEN_SUSPENDED,
		                    "the tenant is suspended; ask its operator");
	return 0;
}

static int check_claims(const struct token_settings *s, const struct parts *p, uint64_t now_s,
                        struct claims *out, struct token_answer *a)
{
	const struct issuer *i = p->match.issuer;
	struct slice subject = {0}, token_id = {0};
	struct err e;

	if (check_audience(i ? i->audience : s->audience, p->payload, a) < 0 ||
	    check_times(s, p->payload, now_s, out, a) < 0 ||
	    claim_string(p->payload, i ? i->subject_claim : "sub", TOKEN_SUBJECT_MAX, &subject, a) <
	            0)
		return -1;
	if (json_object_get(p->payload, "jti") &&
	    claim_string(p->payload, "jti", TOKEN_ID_MAX, &token_id, a) < 0)
		return -1;
	if (token_limits_parse(json_object_get(p->payload, "limits"), &out->limits, &e) < 0)
		return token_refuse(a, TOKEN_CLAIM, "%s", e.text);
	out->acl = permissions(p->match.issuer, p->payload, &e);
	if (!out->acl)
		return token_refuse(a, TOKEN_ACL, "%s", e.text);
	out->tenant = p->match.tenant;
	out->key_id = p->match.key_id;
	out->subject = slice(xstrndup(subject.p, subject.n), subject.n);
	if (token_id.n)
		out->token_id = slice(xstrndup(token_id.p, token_id.n), token_id.n);
	return 0;
}

/* ---- the interface ---- */

bool claims_revoked(const struct registry *r, const struct claims *c)
{
	struct revocation_token t = {
	        .issued_s = c->issued_s, .subject = c->subject, .token_id = c->token_id};

	if (!c->tenant || !c->key_id)
		return false;
	t.tenant_id = c->tenant->id;
	return revocation_set_has(registry_revocations(r), &t);
}

void claims_release(struct claims *c)
{
	free((char *)c->subject.p);
	free((char *)c->token_id.p);
	acl_free(c->acl);
	*c = (struct claims){0};
}

int token_verify(struct registry *r, const struct token_settings *s, struct slice text,
                 uint64_t now_s, struct claims *out, struct token_answer *answer)
{
	struct parts p = {0};
	int rc;

	*out = (struct claims){0};
	*answer = (struct token_answer){0};
	rc = split(text, &p, answer) < 0 || decode(&p, answer) < 0 ||
	                     check_header(&p, answer) < 0 || check_signature(r, &p, answer) < 0 ||
	                     check_claims(s, &p, now_s, out, answer) < 0 ||
	                     token_check_standing(r, out, answer) < 0
	             ? -1
	             : 0;
	if (rc < 0)
		claims_release(out);
	json_decref(p.header);
	json_decref(p.payload);
	buf_release(&p.signature);
	return rc;
}
