/* Client certificates in place of tokens: who is let in, in which words not, and which ids stay. */
#include "tenancy/certificate.h"

#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define ALL "[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"${sub}/#\"}]"

enum { NOW = 1800000000 };

struct heard {
	unsigned n;
	uint64_t key_id;
};

static void on_change(void *arg, const struct tenant *t, enum registry_change what, uint64_t key_id)
{
	struct heard *h = arg;

	if (what != REGISTRY_KEY_GONE)
		return;
	assert_null(t);
	h->n++;
	h->key_id = key_id;
}

/* A fingerprint of 32 times this letter. */
static struct certificate_row row(char letter, uint32_t tenant, const char *subject,
                                  const char *acl)
{
	static char fingerprints[256][CERTIFICATE_FINGERPRINT];
	char *f = fingerprints[(unsigned char)letter];

	memset(f, letter, CERTIFICATE_FINGERPRINT);
	return (struct certificate_row){.fingerprint = slice(f, CERTIFICATE_FINGERPRINT),
	                                .tenant_id = tenant,
	                                .subject = slice_str(subject),
	                                .acl = slice_str(acl)};
}

static void take(struct registry *r, const struct certificate_row *rows, size_t n)
{
	struct certificate_set *s = certificate_set_new();

	for (size_t i = 0; i < n; i++)
		certificate_set_add(s, &rows[i]);
	registry_take_certificates(r, s);
}

static int show(struct registry *r, char letter, struct claims *c, struct token_answer *a)
{
	struct certificate_shown shown = {.not_before_s = NOW - 100, .not_after_s = NOW + 100};

	memset(shown.fingerprint, letter, sizeof shown.fingerprint);
	return certificate_verify(r, &shown, NOW, c, a);
}

static uint64_t id_of(struct registry *r, char letter)
{
	struct token_answer a;
	struct claims c;
	uint64_t id;

	if (show(r, letter, &c, &a) < 0)
		fail_msg("%c: %s", letter, a.text);
	id = c.key_id;
	claims_release(&c);
	return id;
}

static void assert_refused(struct registry *r, char letter, enum token_refusal why,
                           const char *text)
{
	struct token_answer a;
	struct claims c;

	assert_int_equal(show(r, letter, &c, &a), -1);
	assert_int_equal(a.why, why);
	if (!strstr(a.text, text))
		fail_msg("%c: '%s'", letter, a.text);
	assert_null(c.tenant);
	assert_null(c.acl);
}

static struct registry *with_tenants(struct heard *h)
{
	struct tenant t[] = {{.id = 1, .state = TENANT_ACTIVE, .name = "acme"},
	                     {.id = 2, .state = TENANT_SUSPENDED, .name = "late"}};
	struct registry *r = registry_new(h ? on_change : NULL, h);

	registry_apply(r, t, 2, NULL, 0);
	return r;
}

static void test_certificate_verify(void **state)
{
	struct certificate_row rows[] = {row('a', 1, "dev", ALL), row('b', 2, "dev", ALL),
	                                 row('c', 3, "dev", ALL), row('d', 1, "dev", "{\"x\":1}"),
	                                 row('e', 1, "dev", "[{]")};
	struct certificate_shown late = {.not_before_s = 1, .not_after_s = NOW};
	struct registry *r = with_tenants(NULL);
	struct token_answer answer;
	struct claims c;
	(void)state;

	take(r, rows, 5);
	assert_int_equal(show(r, 'a', &c, &answer), 0);
	assert_string_equal(c.tenant->name, "acme");
	assert_string_equal(c.subject.p, "dev");
	assert_true(c.by_certificate && c.key_id);
	assert_int_equal(c.expires_s, NOW + 100);
	assert_int_equal(c.issued_s, NOW - 100);
	assert_int_equal(acl_bind(c.acl, c.subject, slice_str("c"), NULL), 0);
	assert_true(acl_may_publish(c.acl, slice_str("dev/x")));
	assert_false(acl_may_publish(c.acl, slice_str("else")));
	claims_release(&c);

	assert_refused(r, 'x', TOKEN_UNVERIFIED, "no key known here verifies this token");
	assert_refused(r, 'c', TOKEN_UNVERIFIED, "no key known here verifies this token");
	assert_refused(r, 'b', TOKEN_SUSPENDED, "the tenant is suspended");
	assert_refused(r, 'd', TOKEN_ACL, "claim acl must be an array");
	assert_refused(r, 'e', TOKEN_ACL, "the certificate's acl is not JSON");
	memset(late.fingerprint, 'a', sizeof late.fingerprint);
	assert_int_equal(certificate_verify(r, &late, NOW, &c, &answer), -1);
	assert_int_equal(answer.why, TOKEN_EXPIRED);
	registry_free(r);
}

/* What revokes a subject's tokens ends the certificates that were issued before, too. */
static void test_certificate_revoked(void **state)
{
	struct certificate_row a = row('a', 1, "dev", ALL);
	struct revocation_set *s = revocation_set_new();
	struct registry *r = with_tenants(NULL);
	(void)state;

	take(r, &a, 1);
	assert_true(revocation_set_add(s, &(struct revocation_row){.tenant_id = 1,
	                                                           .kind = REVOCATION_SUBJECT,
	                                                           .name = slice_str("dev"),
	                                                           .before_s = NOW}));
	revocation_set_seal(s);
	registry_take_revocations(r, s);
	assert_refused(r, 'a', TOKEN_REVOKED, "the certificate was revoked");
	registry_free(r);
}

static void test_certificate_ids(void **state)
{
	struct heard h = {0};
	struct registry *r = with_tenants(&h);
	struct certificate_row rows[] = {row('a', 1, "dev", ALL), row('b', 1, "dev", ALL)};
	uint64_t a, b;
	(void)state;

	take(r, rows, 2);
	a = id_of(r, 'a');
	b = id_of(r, 'b');
	assert_true(a && b && a != b);
	take(r, rows, 2);
	assert_int_equal(h.n, 0);
	assert_int_equal(id_of(r, 'a'), a);
	rows[0].acl = slice_str("[]"); /* another permission, another id */
	take(r, rows, 2);
	assert_int_equal(h.n, 1);
	assert_int_equal(h.key_id, a);
	assert_int_not_equal(id_of(r, 'a'), a);
	assert_int_equal(id_of(r, 'b'), b);
	take(r, rows, 1);
	assert_int_equal(h.n, 2);
	assert_int_equal(h.key_id, b);
	assert_refused(r, 'b', TOKEN_UNVERIFIED, "no key known here");
	registry_free(r);
}

static void test_certificate_bad_rows(void **state)
{
	struct certificate_row rows[] = {row('a', 1, "", ALL), row('b', 1, "dev", ""),
	                                 row('c', 1, "dev", ALL), row('d', 1, "dev", ALL),
	                                 row('d', 1, "else", ALL)};
	struct registry *r = with_tenants(NULL);
	(void)state;

	rows[2].fingerprint.n--;
	take(r, rows, 5);
	assert_int_equal(certificate_set_count(registry_certificates(r)), 1);
	assert_true(id_of(r, 'd') != 0);
	registry_free(r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_certificate_verify),
	        cmocka_unit_test(test_certificate_revoked),
	        cmocka_unit_test(test_certificate_ids),
	        cmocka_unit_test(test_certificate_bad_rows),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
