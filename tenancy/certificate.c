#include "tenancy/certificate.h"

#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { ACL_TEXT_MAX = 65535 }; /* bytes */

struct certificate_set {
	struct map by_fingerprint;
};

/* ---- the registered ones ---- */

struct certificate_set *certificate_set_new(void)
{
	struct certificate_set *s = xcalloc(1, sizeof *s);

	map_init(&s->by_fingerprint);
	return s;
}

void certificate_set_free(struct certificate_set *s)
{
	struct certificate *c;
	size_t at = 0;

	if (!s)
		return;
	while ((c = map_next(&s->by_fingerprint, &at)))
		free(c);
	map_release(&s->by_fingerprint);
	free(s);
}

void certificate_set_add(struct certificate_set *s, const struct certificate_row *row)
{
	struct certificate *c;

	if (row->fingerprint.n != CERTIFICATE_FINGERPRINT || row->subject.n == 0 ||
	    row->subject.n > TOKEN_SUBJECT_MAX || row->acl.n == 0 || row->acl.n > ACL_TEXT_MAX ||
	    map_get(&s->by_fingerprint, row->fingerprint.p, row->fingerprint.n)) {
		log_warn("certificate", "tenant=%" PRIu32 " certificate left out", row->tenant_id);
		return;
	}
	c = xcalloc(1, sizeof *c + row->subject.n + row->acl.n);
	memcpy(c->fingerprint, row->fingerprint.p, sizeof c->fingerprint);
	c->tenant_id = row->tenant_id;
	c->subject_len = (uint32_t)row->subject.n;
	c->acl_len = (uint32_t)row->acl.n;
	memcpy(c->bytes, row->subject.p, row->subject.n);
	memcpy(c->bytes + row->subject.n, row->acl.p, row->acl.n);
	map_put(&s->by_fingerprint, c->fingerprint, sizeof c->fingerprint, c);
}

size_t certificate_set_count(const struct certificate_set *s)
{
	return s ? s->by_fingerprint.count : 0;
}

struct certificate *certificate_set_find(const struct certificate_set *s,
                                         const uint8_t *fingerprint)
{
	return s ? map_get(&s->by_fingerprint, fingerprint, CERTIFICATE_FINGERPRINT) : NULL;
}

struct certificate *certificate_set_next(const struct certificate_set *s, size_t *at)
{
	return s ? map_next(&s->by_fingerprint, at) : NULL;
}

static bool same(const struct certificate *a, const struct certificate *b)
{
	return a->tenant_id == b->tenant_id && a->subject_len == b->subject_len &&
	       a->acl_len == b->acl_len &&
	       memcmp(a->bytes, b->bytes, (size_t)a->subject_len + a->acl_len) == 0;
}

void certificate_set_number(struct certificate_set *s, struct certificate_set *old,
                            uint64_t *last_id)
{
	struct certificate *c, *was;
	size_t at = 0;

	while ((c = certificate_set_next(s, &at))) {
		was = certificate_set_find(old, c->fingerprint);
		if (was && same(was, c)) {
			c->key_id = was->key_id;
			was->key_id = 0;
		} else {
			c->key_id = ++*last_id;
		}
	}
}

/* ---- one that was shown ---- */

static struct acl *permissions(const struct certificate *c, struct err *e)
{
	json_t *claim =
	        json_loadb(c->bytes + c->subject_len, c->acl_len, JSON_REJECT_DUPLICATES, NULL);
	struct acl *acl = NULL;

	if (claim)
		acl = acl_parse(claim, e);
	else
		err_set(e, 0, "the certificate's acl is not JSON");
	json_decref(claim);
	return acl;
}

static int fill_in(const struct certificate *c, const struct tenant *t,
                   const struct certificate_shown *shown, struct claims *out,
                   struct token_answer *a)
{
	struct err e;

	out->acl = permissions(c, &e);
	if (!out->acl)
		return token_refuse(a, TOKEN_ACL, "%s", e.text);
	out->tenant = t;
	out->key_id = c->key_id;
	out->by_certificate = true;
	out->expires_s = shown->not_after_s;
	out->issued_s = shown->not_before_s;
	out->subject = slice(xstrndup(c->bytes, c->subject_len), c->subject_len);
	return 0;
}

int certificate_verify(struct registry *r, const struct certificate_shown *shown, uint64_t now_s,
                       struct claims *out, struct token_answer *answer)
{
	const struct certificate *c =
	        certificate_set_find(registry_certificates(r), shown->fingerprint);
	const struct tenant *t = c ? registry_tenant(r, c->tenant_id) : NULL;

	*out = (struct claims){0};
	*answer = (struct token_answer){0};
	if (!t)
		return token_refuse_unverified(answer, "this client certificate is not registered");
	if (now_s >= shown->not_after_s)
		return token_refuse(answer, TOKEN_EXPIRED, "the client certificate has expired");
	if (fill_in(c, t, shown, out, answer) == 0 && token_check_standing(r, out, answer) == 0)
		return 0;
	claims_release(out);
	return -1;
}
