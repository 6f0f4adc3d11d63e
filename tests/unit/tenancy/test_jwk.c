#include "tenancy/jwk.h"

#include "tenancy/base64url.h"
#include "tenancy/registry.h"
#include "tests/unit/tenancy/jwks.h"
#include "tests/unit/tenancy/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static bool verifies(enum jws_alg alg, const char *material, const char *token)
{
	const char *dot = strrchr(token, '.');
	struct buf sig = {0};
	struct err e = {0};
	struct jws_key *k = jws_key_public(alg, slice_str(material), &e);
	bool ok;

	if (!k)
		fail_msg("%s: %s", material, e.text);
	assert_int_equal(base64url_decode(slice_str(dot + 1), &sig), 0);
	ok = jws_verify(k, slice(token, (size_t)(dot - token)), buf_slice(&sig));
	buf_release(&sig);
	jws_key_free(k);
	return ok;
}

/* The same keys as in PEM, so tokens that another implementation signed are good. */
static void test_jwk_verifies(void **state)
{
	(void)state;
	assert_true(verifies(JWS_RS256, "{" JWK_RSA "}", pyjwt_rs256));
	assert_true(verifies(JWS_PS256, "{" JWK_RSA "}", pyjwt_ps256));
	assert_true(verifies(JWS_ES256, "{" JWK_EC "}", pyjwt_es256));
	assert_true(verifies(JWS_EDDSA, "{" JWK_ED "}", pyjwt_eddsa));
	assert_true(verifies(JWS_HS256, "{" JWK_OCT "}", pyjwt_hs256));
	assert_false(verifies(JWS_RS256, "{" JWK_RSA "}", pyjwt_ps256));
	assert_true(verifies(JWS_RS256,
	                     " \n{\"use\":\"sig\",\"key_ops\":[\"verify\"],\"alg\":\"RS256\","
	                     "\"x5c\":[\"x\"],\"x5t\":\"y\",\"ext\":true," JWK_RSA "}",
	                     pyjwt_rs256));
}

/* RFC 7515, appendix A.3, and RFC 8037, appendix A.4, with the JWK that stands there. */
static void test_jwk_rfc_vectors(void **state)
{
	(void)state;
	assert_true(verifies(
	        JWS_ES256,
	        "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":"
	        "\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
	        "\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}",
	        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9"
	        "leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXF"
	        "CgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"));
	assert_true(verifies(
	        JWS_EDDSA,
	        "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_"
	        "7TyWQHOg7hcvPapiMlrwIaaPcHURo"
	        "\"}",
	        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1P"
	        "POt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"));
}

static const struct refused {
	enum jws_alg alg;
	const char *material, *why;
} refused_rows[] = {
        {JWS_RS256, "{" JWK_RSA ",\"d\":\"AQAB\"}", "this is a private key (it has a member d)"},
        {JWS_EDDSA, "{" JWK_ED ",\"d\":\"x\"}", "give its public half"},
        {JWS_RS256, "{" JWK_RSA ",\"qi\":1}", "this is a private key (it has a member qi)"},
        {JWS_RS256, "{" JWK_RSA ",\"kty\":\"oct\"}", "has a member twice"},
        {JWS_RS256, "{" JWK_RSA ",\"use\":\"enc\"}", "its use is not sig"},
        {JWS_RS256, "{" JWK_RSA ",\"use\":1}", "its use is not sig"},
        {JWS_RS256, "{" JWK_RSA ",\"key_ops\":[\"sign\"]}", "key_ops has no verify"},
        {JWS_RS256, "{" JWK_RSA ",\"key_ops\":\"verify\"}", "key_ops has no verify"},
        {JWS_RS256, "{" JWK_RSA ",\"alg\":\"PS256\"}", "is for PS256, not for RS256"},
        {JWS_RS256, "{" JWK_RSA ",\"alg\":\"RS512\"}", "alg \"RS512\" of this JWK is none of"},
        {JWS_RS256, "{" JWK_RSA ",\"alg\":\"HS256\"}", "alg \"HS256\" of this JWK is none of"},
        {JWS_RS256, "{" JWK_RSA ",\"alg\":null}", "of this JWK is none of"},
        {JWS_RS256, "{" JWK_RSA ",\"kid\":7}", "kid of this JWK must be a string"},
        {JWS_HS256, "{" JWK_RSA "}", "is for RS256, not for HS256"},
        {JWS_ES256, "{" JWK_RSA "}", "is for RS256, not for ES256"},
        {JWS_RS256, "{" JWK_OCT "}", "is for HS256, not for RS256"},
        {JWS_HS256, "{\"kty\":\"oct\",\"k\":\"MDEy\"}", "base64url of 32 to 1024 bytes"},
        {JWS_HS256, "{\"kty\":\"oct\"}", "member k of this JWK must be base64url"},
        {JWS_RS256, "{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}", "2048 to 8192 bits"},
        {JWS_RS256, "{\"kty\":\"RSA\",\"n\":\"AQAC\",\"e\":\"AQAB\"}", "are no RS256 key"},
        {JWS_RS256, "{" JWK_ED ",\"n\":\"x\"}", "is for EdDSA, not for RS256"},
        {JWS_ES256, "{\"kty\":\"EC\",\"crv\":\"P-384\",\"x\":\"AA\",\"y\":\"AA\"}",
         "EC (crv P-256)"},
        {JWS_ES256, "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}",
         "member x of this JWK must be base64url of 32 to 32 bytes"},
        {JWS_ES256, /* not on the curve */
         "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"ac0VimK8V-A62IBuBpYf5rxYbt8_VUdEUDCc2HiO3TA\","
         "\"y\":\"ac0VimK8V-A62IBuBpYf5rxYbt8_VUdEUDCc2HiO3TA\"}",
         "are no ES256 key"},
        {JWS_EDDSA, "{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"AA\"}", "OKP (crv Ed25519)"},
        {JWS_RS256, "{\"kty\":[\"RSA\"]}", "a JWK is of kty RSA"},
        {JWS_RS256, "{\"kty\":", "or as a JWK"},
        {JWS_RS256, "[]", "or as a JWK"},
};

static void test_jwk_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof refused_rows / sizeof *refused_rows; i++) {
		const struct refused *r = &refused_rows[i];
		struct err e = {0};

		assert_null(jws_key_public(r->alg, slice_str(r->material), &e));
		if (!strstr(e.text, r->why))
			fail_msg("row %zu: reason is '%s'", i, e.text);
	}
}

/* A secret that merely looks like JSON is a secret. */
static void test_jwk_is_not(void **state)
{
	static const char *const secrets[] = {"{\"a\":\"0123456789abcdef0123456789abcdef\"}",
	                                      "{0123456789abcdef0123456789abcdef}",
	                                      "[\"kty\",\"0123456789abcdef0123456789abcdef\"]"};
	(void)state;

	assert_false(jwk_is(slice(NULL, 0)));
	assert_false(jwk_is(slice("{", 1)));
	for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
		struct jws_key *k = jws_key_public(JWS_HS256, slice_str(secrets[i]), NULL);

		assert_false(jwk_is(slice_str(secrets[i])));
		assert_non_null(k);
		jws_key_free(k);
	}
}

static void test_jwk_alg_and_kid(void **state)
{
	struct registry_key_row row = {.tenant_id = 1,
	                               .alg = JWS_ES256,
	                               .issuer = slice_str("i"),
	                               .kid = slice_str("k1"),
	                               .material = slice_str("{\"kid\":\"k1\"," JWK_EC "}")};
	enum jws_alg alg;
	struct err e;
	(void)state;

	assert_int_equal(jws_alg_guess(slice_str("{" JWK_EC "}"), &alg, &e), 0);
	assert_int_equal(alg, JWS_ES256);
	assert_int_equal(jws_alg_guess(slice_str("{\"alg\":\"PS256\"," JWK_RSA "}"), &alg, &e), 0);
	assert_int_equal(alg, JWS_PS256);
	assert_int_equal(jws_alg_guess(slice_str("{" JWK_OCT "}"), &alg, &e), 0);
	assert_int_equal(alg, JWS_HS256);
	assert_int_equal(jws_alg_guess(slice_str("{\"kty\":\"RSA\",\"d\":\"x\"}"), &alg, &e), -1);
	assert_int_equal(registry_key_check(&row, &e), 0);
	row.kid = slice_str("k2");
	assert_int_equal(registry_key_check(&row, &e), -1);
	assert_string_equal(e.text, "this JWK has the kid \"k1\", not k2");
	row.material = slice_str("{" JWK_EC "}"); /* it calls itself nothing */
	assert_int_equal(registry_key_check(&row, &e), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_jwk_verifies),    cmocka_unit_test(test_jwk_rfc_vectors),
	        cmocka_unit_test(test_jwk_refused),     cmocka_unit_test(test_jwk_is_not),
	        cmocka_unit_test(test_jwk_alg_and_kid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
