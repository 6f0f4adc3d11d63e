#include "tenancy/jwks.h"

#include "tests/unit/tenancy/jwks.h"
#include "tests/unit/tenancy/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct jwks *parse(const char *text)
{
	struct err e = {0};
	struct jwks *s = jwks_parse(slice_str(text), &e);

	if (!s)
		fail_msg("%s: %s", text, e.text);
	return s;
}

static void test_jwks_keys(void **state)
{
	static const char *const kids[] = {"k0", "+/=.:", "k2", "k3"};
	static const enum jws_alg algs[] = {JWS_RS256, JWS_PS256, JWS_ES256, JWS_EDDSA};
	struct jwks *s = parse("{\"keys\":[{\"kid\":\"k0\"," JWK_RSA "},"
	                       "{\"kid\":\"+/=.:\",\"alg\":\"PS256\",\"use\":\"sig\"," JWK_RSA "},"
	                       "{\"kid\":\"k2\"," JWK_EC "},{\"kid\":\"k3\"," JWK_ED "}],\"x\":1}");
	(void)state;

	assert_int_equal(jwks_count(s), 4);
	assert_string_equal(jwks_left_out(s), "");
	for (size_t i = 0; i < 4; i++) {
		assert_true(slice_eq(jwks_at(s, i).kid, slice_str(kids[i])));
		assert_int_equal(jws_key_alg(jwks_at(s, i).key), algs[i]);
	}
	jwks_free(s);
	assert_int_equal(jwks_count(NULL), 0);
	jwks_free(NULL);
}

/* As providers publish them: keys for encryption, algorithms that are not ours, and worse. */
static void test_jwks_leaves_out(void **state)
{
	static const struct {
		const char *key, *why;
	} rows[] = {
	        {"{\"kid\":\"a\",\"use\":\"enc\"," JWK_RSA "}", "its use is not sig"},
	        {"{\"kid\":\"a\",\"alg\":\"RS512\"," JWK_RSA "}",
	         "alg \"RS512\" of this JWK is none"},
	        {"{\"kid\":\"a\"," JWK_OCT "}", "it is a secret"},
	        {"{\"kid\":\"a\",\"d\":\"AA\"," JWK_ED "}", "this is a private key"},
	        {"{" JWK_EC "}", "kid must be 1 to 128 printable"},
	        {"{\"kid\":\"a b\"," JWK_EC "}", "kid must be 1 to 128 printable"},
	        {"{\"kid\":\"\u00e4\"," JWK_EC "}", "kid must be 1 to 128 printable"},
	        {"{\"kid\":\"good\"," JWK_ED "}", "its kid is there twice"},
	        {"{\"kid\":\"a\",\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}",
	         "2048 to 8192 bits"},
	        {"7", "a JWK is a JSON object"},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct buf kept = {0};
		char text[4096];
		struct jwks *s, *again;

		snprintf(text, sizeof text, "{\"keys\":[{\"kid\":\"good\"," JWK_EC "},%s]}",
		         rows[i].key);
		s = parse(text);
		assert_int_equal(jwks_count(s), 1);
		jwks_put(s, &kept);
		buf_u8(&kept, '\0');
		if (strstr((char *)kept.data, "\"d\"") || strstr((char *)kept.data, "\"k\"") ||
		    strstr((char *)kept.data, "\"kid\":\"a\""))
			fail_msg("row %zu is kept: %s", i, (char *)kept.data);
		again = parse((char *)kept.data);
		assert_int_equal(jwks_count(again), 1);
		assert_string_equal(jwks_left_out(again), "");
		jwks_free(again);
		buf_release(&kept);
		if (strncmp(jwks_left_out(s), "key 2 was left out: ", 20) != 0 ||
		    !strstr(jwks_left_out(s), rows[i].why))
			fail_msg("row %zu: '%s'", i, jwks_left_out(s));
		jwks_free(s);
	}
}

static void test_jwks_refused(void **state)
{
	static const struct {
		const char *text, *why;
	} rows[] = {
	        {"", "it is not JSON, at byte 0"},
	        {"<html>", "it is not JSON, at byte 1"},
	        {"[]", "it is not a JWKS: it has no array keys"},
	        {"{}", "it is not a JWKS: it has no array keys"},
	        {"{\"keys\":{}}", "it is not a JWKS: it has no array keys"},
	        {"{\"keys\":[],\"keys\":[]}", "it is not JSON"},
	        {"{\"keys\":[]}", "there is no key in it that can be used"},
	        {"{\"keys\":[{\"kid\":\"a\"," JWK_OCT "}]}",
	         "there is no key in it that can be used; key 1 was left out: it is a secret"},
	};
	struct err e = {0};
	char many[2 * (JWKS_MAX_KEYS + 1) + 16] = "{\"keys\":[1";
	char *large = calloc(1, JWKS_MAX_BYTES + 1);
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		assert_null(jwks_parse(slice_str(rows[i].text), &e));
		if (!strstr(e.text, rows[i].why))
			fail_msg("%s: reason is '%s'", rows[i].text, e.text);
	}
	for (int i = 0; i < JWKS_MAX_KEYS; i++)
		strcat(many, ",1"); /* NOLINT(clang-analyzer-security.insecureAPI.strcpy) */
	strcat(many, "]}");         /* NOLINT(clang-analyzer-security.insecureAPI.strcpy) */
	assert_null(jwks_parse(slice_str(many), &e));
	assert_string_equal(e.text, "it has 101 keys; at most 100 are allowed");
	assert_null(jwks_parse(slice(large, JWKS_MAX_BYTES + 1), &e));
	assert_non_null(strstr(e.text, "at most 262144 bytes"));
	free(large);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_jwks_keys),
	        cmocka_unit_test(test_jwks_leaves_out),
	        cmocka_unit_test(test_jwks_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
