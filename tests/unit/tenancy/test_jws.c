#include "tenancy/jws.h"

#include "base/clock.h"
#include "tenancy/base64url.h"
#include "tests/unit/tenancy/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_base64url(void **state)
{
	static const struct {
		const char *text, *bytes; /* bytes NULL: refused */
	} rows[] = {
	        {"", ""},        {"Zg", "f"},        {"Zm8", "fo"},
	        {"Zm9v", "foo"}, {"Zm9vYg", "foob"}, {"-_-_", "\xfb\xff\xbf"},
	        {"Zg==", NULL},  {"Z", NULL},        {"Zm9vY", NULL},
	        {"Zh", NULL},    {"Zm9", NULL},      {"+/+/", NULL},
	        {"Zm 8", NULL},  {"Zm8\n", NULL},    {"Zm8.", NULL},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct buf out = {0}, back = {0};
		int rc = base64url_decode(slice_str(rows[i].text), &out);

		if ((rc == 0) != (rows[i].bytes != NULL))
			fail_msg("'%s': %d", rows[i].text, rc);
		if (rc == 0) {
			assert_true(slice_eq(buf_slice(&out), slice_str(rows[i].bytes)));
			base64url_encode(buf_slice(&out), &back);
			assert_true(slice_eq(buf_slice(&back), slice_str(rows[i].text)));
		} else {
			assert_int_equal(out.len, 0);
		}
		buf_release(&out);
		buf_release(&back);
	}
}

/* Verify a whole compact token with the key; flip = change one bit of the signature first. */
static bool verify_token(const struct jws_key *k, const char *token, bool flip)
{
	const char *dot = strrchr(token, '.');
	struct buf sig = {0};
	bool ok;

	assert_int_equal(base64url_decode(slice_str(dot + 1), &sig), 0);
	if (flip)
		sig.data[sig.len / 2] ^= 4;
	ok = jws_verify(k, slice(token, (size_t)(dot - token)), buf_slice(&sig));
	buf_release(&sig);
	return ok;
}

static struct jws_key *public_key(enum jws_alg alg, struct slice material)
{
	struct err e = {0};
	struct jws_key *k = jws_key_public(alg, material, &e);

	if (!k)
		fail_msg("%s: %s", jws_alg_name(alg), e.text);
	return k;
}

static void assert_vector(enum jws_alg alg, struct slice material, const char *token)
{
	struct jws_key *k = public_key(alg, material);

	assert_true(verify_token(k, token, false));
	assert_false(verify_token(k, token, true));
	jws_key_free(k);
}

static struct slice unbase64url(const char *text, struct buf *out)
{
	assert_int_equal(base64url_decode(slice_str(text), out), 0);
	return buf_slice(out);
}

/* RFC 7515, appendix A.1 */
static void test_jws_rfc7515_hs256(void **state)
{
	struct buf key = {0};
	(void)state;

	assert_vector(
	        JWS_HS256,
	        unbase64url("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS"
	                    "4hcgUuTwjAzZr1Z9CAow",
	                    &key),
	        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTk"
	        "zODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbU"
	        "JU1p1r_wW1gFWFOEjXk");
	buf_release(&key);
}

/* RFC 7515, appendix A.3 */
static void test_jws_rfc7515_es256(void **state)
{
	(void)state;
	assert_vector(
	        JWS_ES256,
	        slice_str("-----BEGIN PUBLIC KEY-----\n"
	                  "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n"
	                  "6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n"
	                  "-----END PUBLIC KEY-----\n"),
	        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9"
	        "leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXF"
	        "CgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q");
}

/* RFC 8037, appendix A.4 */
static void test_jws_rfc8037_eddsa(void **state)
{
	(void)state;
	assert_vector(
	        JWS_EDDSA,
	        slice_str("-----BEGIN PUBLIC KEY-----\n"
	                  "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
	                  "-----END PUBLIC KEY-----\n"),
	        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1P"
	        "POt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg");
}

static void test_jws_pyjwt(void **state)
{
	(void)state;
	assert_vector(JWS_HS256, slice_str(key_secret), pyjwt_hs256);
	assert_vector(JWS_RS256, slice_str(key_rsa_public), pyjwt_rs256);
	assert_vector(JWS_PS256, slice_str(key_rsa_public), pyjwt_ps256);
	assert_vector(JWS_ES256, slice_str(key_ec_public), pyjwt_es256);
	assert_vector(JWS_EDDSA, slice_str(key_ed_public), pyjwt_eddsa);
}

/* A signature of the same key by another algorithm is not a signature. */
static void test_jws_algorithms_do_not_mix(void **state)
{
	struct jws_key *rs = public_key(JWS_RS256, slice_str(key_rsa_public));
	struct jws_key *ps = public_key(JWS_PS256, slice_str(key_rsa_public));
	struct jws_key *ec = public_key(JWS_ES256, slice_str(key_ec_public));
	(void)state;

	assert_false(verify_token(rs, pyjwt_ps256, false));
	assert_false(verify_token(ps, pyjwt_rs256, false));
	assert_false(verify_token(ec, pyjwt_rs256, false));
	assert_false(verify_token(rs, pyjwt_hs256, false));
	assert_false(jws_verify(rs, slice("a", 1), slice(NULL, 0)));
	assert_false(jws_verify(ec, slice("a", 1), slice(NULL, 0)));
	jws_key_free(rs);
	jws_key_free(ps);
	jws_key_free(ec);
}

static void test_jws_keys_refused(void **state)
{
	const struct {
		enum jws_alg alg;
		const char *material, *why;
	} rows[] = {
	        {JWS_HS256, "", "this one has 0"},
	        {JWS_HS256, "0123456789abcdef0123456789abcde", "32 to 1024 bytes; this one has 31"},
	        {JWS_HS256, key_rsa_public, "HS256 needs a raw secret; this is a PEM file"},
	        {JWS_RS256, key_rsa1024_public, "2048 to 8192 bits; this one has 1024"},
	        {JWS_PS256, key_rsa1024_public, "2048 to 8192 bits; this one has 1024"},
	        {JWS_RS256, key_ec_public, "RS256 needs an RSA key"},
	        {JWS_ES256, key_rsa_public, "ES256 needs an EC key on P-256; this is another"},
	        {JWS_ES256, key_ec384_public, "on P-256; this one is on secp384r1"},
	        {JWS_EDDSA, key_ec_public, "EdDSA needs an Ed25519 key"},
	        {JWS_RS256, "", "in PEM, BEGIN PUBLIC KEY, or as a JWK"},
	        {JWS_RS256, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
	         "in PEM, BEGIN PUBLIC KEY, or as a JWK"},
	        {JWS_RS256, key_rsa_private, "this is a private key"},
	        {JWS_EDDSA, key_ed_private, "this is a private key"},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct err e = {0};

		assert_null(jws_key_public(rows[i].alg, slice_str(rows[i].material), &e));
		if (!strstr(e.text, rows[i].why))
			fail_msg("row %zu: reason is '%s'", i, e.text);
	}
}

static void test_jws_alg_names_are_exact(void **state)
{
	static const char *const wrong[] = {"none", "None", "hs256",  "HS512", "RS512",
	                                    "",     "HS25", "HS2566", "eddsa"};
	enum jws_alg alg;
	(void)state;

	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_int_equal(jws_alg_parse(slice_str(wrong[i]), &alg), -1);
	for (int i = 0; i < JWS_ALG_COUNT; i++) {
		assert_int_equal(jws_alg_parse(slice_str(jws_alg_name((enum jws_alg)i)), &alg), 0);
		assert_int_equal(alg, i);
		assert_non_null(strstr(jws_alg_list, jws_alg_name(alg)));
	}
}

static void test_jws_alg_guess(void **state)
{
	static const struct {
		const char *material;
		int alg; /* -1: none */
	} rows[] = {
	        {key_secret, JWS_HS256},         {key_rsa_private, JWS_RS256},
	        {key_rsa_public, JWS_RS256},     {key_ec_private, JWS_ES256},
	        {key_ec_public, JWS_ES256},      {key_ed_private, JWS_EDDSA},
	        {"-----BEGIN NOTHING-----", -1},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		enum jws_alg alg;
		int rc = jws_alg_guess(slice_str(rows[i].material), &alg, NULL);

		assert_int_equal(rc < 0 ? -1 : (int)alg, rows[i].alg);
	}
}

/* Sign, verify; prints the cost of each for the record. */
static void test_jws_round_trip(void **state)
{
	static const struct {
		enum jws_alg alg;
		const char *private, *public;
	} rows[] = {
	        {JWS_HS256, key_secret, key_secret},
	        {JWS_RS256, key_rsa_private, key_rsa_public},
	        {JWS_PS256, key_rsa_private, key_rsa_public},
	        {JWS_ES256, key_ec_private, key_ec_public},
	        {JWS_EDDSA, key_ed_private, key_ed_public},
	};
	enum { ROUNDS = 200 };
	char input[400];
	(void)state;

	memset(input, 'a', sizeof input);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct jws_key *priv =
		        jws_key_private(rows[i].alg, slice_str(rows[i].private), NULL);
		struct jws_key *pub = public_key(rows[i].alg, slice_str(rows[i].public));
		struct buf sig = {0};
		uint64_t t0, t1;

		assert_non_null(priv);
		for (int j = 0; j < 20; j++) { /* ES256: r or s may be short */
			buf_clear(&sig);
			assert_int_equal(jws_sign(priv, slice(input, sizeof input), &sig, NULL), 0);
			assert_true(jws_verify(pub, slice(input, sizeof input), buf_slice(&sig)));
			assert_false(jws_verify(pub, slice(input, 399), buf_slice(&sig)));
		}
		t0 = clock_us();
		for (int j = 0; j < ROUNDS; j++)
			assert_true(jws_verify(pub, slice(input, sizeof input), buf_slice(&sig)));
		t1 = clock_us();
		print_message("%s verify %.1f us\n", jws_alg_name(rows[i].alg),
		              (double)(t1 - t0) / ROUNDS);
		buf_release(&sig);
		jws_key_free(priv);
		jws_key_free(pub);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_base64url),
	        cmocka_unit_test(test_jws_rfc7515_hs256),
	        cmocka_unit_test(test_jws_rfc7515_es256),
	        cmocka_unit_test(test_jws_rfc8037_eddsa),
	        cmocka_unit_test(test_jws_pyjwt),
	        cmocka_unit_test(test_jws_algorithms_do_not_mix),
	        cmocka_unit_test(test_jws_keys_refused),
	        cmocka_unit_test(test_jws_alg_names_are_exact),
	        cmocka_unit_test(test_jws_alg_guess),
	        cmocka_unit_test(test_jws_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
