#include "tenancy/token.h"

#include "base/clock.h"
#include "base/log.h"
#include "tenancy/base64url.h"
#include "tenancy/token_mint.h"
#include "tests/unit/tenancy/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <openssl/hmac.h>

#define NOW UINT64_C(1800000000) /* 2027-01-15T08:00:00Z */
#define UNVERIFIED_TEXT \
	"no key known here verifies this token; check its iss, kid, alg and signature"

static const struct {
	enum jws_alg alg;
	const char *kid, *private, *public;
} keys[JWS_ALG_COUNT] = {
        {JWS_HS256, "k-HS256", key_secret, key_secret},
        {JWS_RS256, "k-RS256", key_rsa_private, key_rsa_public},
        {JWS_PS256, "k-PS256", key_rsa_private, key_rsa_public},
        {JWS_ES256, "k-ES256", key_ec_private, key_ec_public},
        {JWS_EDDSA, "k-EdDSA", key_ed_private, key_ed_public},
};

static struct jws_key *signers[JWS_ALG_COUNT];
static struct registry *registry;

/* Tenant 1 has a key per algorithm at two issuers, tenant 2 (suspended) an HS256 key. */
static int setup(void **state)
{
	struct tenant tenants[] = {
	        {.id = 1, .weight = 1, .partitions = 1, .state = TENANT_ACTIVE, .name = "acme"},
	        {.id = 2, .weight = 1, .partitions = 1, .state = TENANT_SUSPENDED, .name = "late"},
	};
	struct registry_key_row rows[2 * JWS_ALG_COUNT + 1];
	(void)state;

	for (size_t i = 0; i < JWS_ALG_COUNT; i++) {
		struct registry_key_row row = {
		        .tenant_id = 1,
		        .alg = keys[i].alg,
		        .issuer = slice_str("iss"),
		        .kid = slice_str(keys[i].kid),
		        .material = slice_str(keys[i].public),
		};

		signers[i] = jws_key_private(keys[i].alg, slice_str(keys[i].private), NULL);
		assert_non_null(signers[i]);
		rows[2 * i] = row;
		rows[2 * i + 1] = row;
		rows[2 * i + 1].issuer = slice_str("https://pyjwt.test");
	}
	rows[2 * JWS_ALG_COUNT] = rows[0];
	rows[2 * JWS_ALG_COUNT].tenant_id = 2;
	rows[2 * JWS_ALG_COUNT].kid = slice_str("k-late");
	registry = registry_new(NULL, NULL);
	registry_apply(registry, tenants, 2, rows, 2 * JWS_ALG_COUNT + 1);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	registry_free(registry);
	for (size_t i = 0; i < JWS_ALG_COUNT; i++)
		jws_key_free(signers[i]);
	return 0;
}

static int verify(struct slice text, struct claims *c, struct token_answer *a)
{
	return token_verify(registry, &TOKEN_SETTINGS_DEFAULT, text, NOW, c, a);
}

static void assert_refused(const char *name, struct slice text, enum token_refusal why,
                           const char *answer)
{
	struct token_answer a;
	struct claims c;

	if (verify(text, &c, &a) == 0)
		fail_msg("%s: accepted", name);
	if (a.why != why || strcmp(a.text, answer) != 0)
		fail_msg("%s: %s: '%s' instead of %s: '%s'", name, token_refusal_name(a.why),
		         a.text, token_refusal_name(why), answer);
	assert_null(c.tenant);
	assert_null(c.acl);
}

/* ---- every wrong kind of header and claim, properly signed, with each algorithm ---- */

/* $A = the algorithm, $K = its kid; a member given twice is appended: see the rows on duplicates.
 */
#define HEADER "{\"alg\":\"$A\",\"kid\":\"$K\"}"
#define CLAIMS(more) "{\"iss\":\"iss\",\"sub\":\"alice\",\"aud\":\"leat\"" more "}"
#define GOOD CLAIMS(",\"exp\":1800003600")
#define EXP_TEXT "claim exp must be a whole number of seconds since 1970"
#define ALGS "HS256, RS256, PS256, ES256, EdDSA"

static const struct signed_row {
	const char *name, *header, *payload;
	enum token_refusal why;
	const char *answer; /* NULL: accepted */
} signed_rows[] = {
        {"good", HEADER, GOOD, TOKEN_OK, NULL},
        {"typ JWT", "{\"alg\":\"$A\",\"kid\":\"$K\",\"typ\":\"jwt\"}", GOOD, TOKEN_OK, NULL},
        {"typ at+jwt", "{\"alg\":\"$A\",\"kid\":\"$K\",\"typ\":\"at+jwt\"}", GOOD, TOKEN_OK, NULL},
        {"aud list", HEADER,
         "{\"iss\":\"iss\",\"sub\":\"a\",\"aud\":[\"x\",\"leat\"],\"exp\":1800003600}", TOKEN_OK,
         NULL},
        {"nbf within leeway", HEADER, CLAIMS(",\"exp\":1800003600,\"nbf\":1800000005"), TOKEN_OK,
         NULL},
        {"one second left", HEADER, CLAIMS(",\"exp\":1800000001"), TOKEN_OK, NULL},

        {"alg none", "{\"alg\":\"none\",\"kid\":\"$K\"}", GOOD, TOKEN_ALGORITHM,
         "algorithm \"none\" is not accepted; use one of " ALGS},
        {"alg None", "{\"alg\":\"None\",\"kid\":\"$K\"}", GOOD, TOKEN_ALGORITHM,
         "algorithm \"None\" is not accepted; use one of " ALGS},
        {"alg in small letters", "{\"alg\":\"hs256\",\"kid\":\"$K\"}", GOOD, TOKEN_ALGORITHM,
         "algorithm \"hs256\" is not accepted; use one of " ALGS},
        {"alg RS512", "{\"alg\":\"RS512\",\"kid\":\"$K\"}", GOOD, TOKEN_ALGORITHM,
         "algorithm \"RS512\" is not accepted; use one of " ALGS},
        {"alg with NUL", "{\"alg\":\"$A\\u0000\",\"kid\":\"$K\"}", GOOD, TOKEN_MALFORMED,
         "token header contains U+0000"},
        {"alg absent", "{\"kid\":\"$K\"}", GOOD, TOKEN_ALGORITHM,
         "header alg is missing; use one of " ALGS},
        {"alg a number", "{\"alg\":7,\"kid\":\"$K\"}", GOOD, TOKEN_ALGORITHM,
         "header alg is missing; use one of " ALGS},
        {"alg twice", "{\"alg\":\"$A\",\"kid\":\"$K\",\"alg\":\"$A\"}", GOOD, TOKEN_MALFORMED,
         "token header has a member twice"},
        {"kid absent", "{\"alg\":\"$A\"}", GOOD, TOKEN_HEADER,
         "header kid is missing; it names the key"},
        {"kid a number", "{\"alg\":\"$A\",\"kid\":1}", GOOD, TOKEN_HEADER,
         "header kid is missing; it names the key"},
        {"kid empty", "{\"alg\":\"$A\",\"kid\":\"\"}", GOOD, TOKEN_HEADER,
         "header kid must be 1 to 128 printable ASCII characters, no spaces"},
        {"kid of another script", "{\"alg\":\"$A\",\"kid\":\"\u043a\"}", GOOD, TOKEN_HEADER,
         "header kid must be 1 to 128 printable ASCII characters, no spaces"},
        {"kid a path", "{\"alg\":\"$A\",\"kid\":\"../../dev/null\"}", GOOD, TOKEN_UNVERIFIED,
         UNVERIFIED_TEXT},
        {"kid SQL", "{\"alg\":\"$A\",\"kid\":\"' OR 1=1\"}", GOOD, TOKEN_HEADER,
         "header kid must be 1 to 128 printable ASCII characters, no spaces"},
        {"kid unknown", "{\"alg\":\"$A\",\"kid\":\"nobody\"}", GOOD, TOKEN_UNVERIFIED,
         UNVERIFIED_TEXT},
        {"jku", "{\"alg\":\"$A\",\"kid\":\"$K\",\"jku\":\"https://evil\"}", GOOD, TOKEN_HEADER,
         "header jku is not accepted"},
        {"jwk", "{\"alg\":\"$A\",\"kid\":\"$K\",\"jwk\":{}}", GOOD, TOKEN_HEADER,
         "header jwk is not accepted"},
        {"x5u", "{\"alg\":\"$A\",\"kid\":\"$K\",\"x5u\":\"https://evil\"}", GOOD, TOKEN_HEADER,
         "header x5u is not accepted"},
        {"x5c", "{\"alg\":\"$A\",\"kid\":\"$K\",\"x5c\":[]}", GOOD, TOKEN_HEADER,
         "header x5c is not accepted"},
        {"crit", "{\"alg\":\"$A\",\"kid\":\"$K\",\"crit\":[\"exp\"]}", GOOD, TOKEN_HEADER,
         "header crit is not accepted"},
        {"typ JWE", "{\"alg\":\"$A\",\"kid\":\"$K\",\"typ\":\"JWE\"}", GOOD, TOKEN_HEADER,
         "header typ must be absent, JWT or at+jwt"},
        {"typ a number", "{\"alg\":\"$A\",\"kid\":\"$K\",\"typ\":1}", GOOD, TOKEN_HEADER,
         "header typ must be absent, JWT or at+jwt"},
        {"header an array", "[]", GOOD, TOKEN_MALFORMED, "token header is not a JSON object"},
        {"header not JSON", "{", GOOD, TOKEN_MALFORMED, "token header is not JSON, at byte 1"},

        {"iss absent", HEADER, "{\"sub\":\"alice\",\"aud\":\"leat\",\"exp\":1800003600}",
         TOKEN_CLAIM, "claim iss must be a string of 1 to 255 bytes"},
        {"iss wrong", HEADER,
         "{\"iss\":\"mallory\",\"sub\":\"a\",\"aud\":\"leat\",\"exp\":1800003600}",
         TOKEN_UNVERIFIED, UNVERIFIED_TEXT},
        {"sub absent", HEADER, "{\"iss\":\"iss\",\"aud\":\"leat\",\"exp\":1800003600}", TOKEN_CLAIM,
         "claim sub must be a string of 1 to 255 bytes"},
        {"sub empty", HEADER, "{\"iss\":\"iss\",\"sub\":\"\",\"aud\":\"leat\",\"exp\":1800003600}",
         TOKEN_CLAIM, "claim sub must be a string of 1 to 255 bytes"},
        {"sub a number", HEADER, "{\"iss\":\"iss\",\"sub\":1,\"aud\":\"leat\",\"exp\":1800003600}",
         TOKEN_CLAIM, "claim sub must be a string of 1 to 255 bytes"},
        {"sub twice", HEADER, CLAIMS(",\"exp\":1800003600,\"sub\":\"bob\""), TOKEN_MALFORMED,
         "token payload has a member twice"},
        {"sub with NUL", HEADER,
         "{\"iss\":\"iss\",\"sub\":\"a\\u0000b\",\"aud\":\"leat\",\"exp\":1800003600}",
         TOKEN_MALFORMED, "token payload contains U+0000"},
        {"aud absent", HEADER, "{\"iss\":\"iss\",\"sub\":\"a\",\"exp\":1800003600}", TOKEN_AUDIENCE,
         "claim aud must contain \"leat\""},
        {"aud wrong", HEADER,
         "{\"iss\":\"iss\",\"sub\":\"a\",\"aud\":\"leatx\",\"exp\":1800003600}", TOKEN_AUDIENCE,
         "claim aud must contain \"leat\""},
        {"aud an object", HEADER,
         "{\"iss\":\"iss\",\"sub\":\"a\",\"aud\":{\"a\":\"leat\"},\"exp\":1800003600}",
         TOKEN_AUDIENCE, "claim aud must contain \"leat\""},
        {"exp absent", HEADER, CLAIMS(""), TOKEN_CLAIM, EXP_TEXT "; it is missing"},
        {"exp a string", HEADER, CLAIMS(",\"exp\":\"1800003600\""), TOKEN_CLAIM, EXP_TEXT},
        {"exp a real", HEADER, CLAIMS(",\"exp\":1800003600.5"), TOKEN_CLAIM, EXP_TEXT},
        {"exp negative", HEADER, CLAIMS(",\"exp\":-1"), TOKEN_CLAIM, EXP_TEXT},
        {"exp null", HEADER, CLAIMS(",\"exp\":null"), TOKEN_CLAIM, EXP_TEXT},
        {"exp twice", HEADER, CLAIMS(",\"exp\":1,\"exp\":1800003600"), TOKEN_MALFORMED,
         "token payload has a member twice"},
        {"exp beyond 64 bits", HEADER, CLAIMS(",\"exp\":99999999999999999999"), TOKEN_MALFORMED,
         "token payload has a number that is too large"},
        {"expired", HEADER, CLAIMS(",\"exp\":1"), TOKEN_EXPIRED,
         "token expired at 1970-01-01T00:00:01Z; it is 2027-01-15T08:00:00Z here: get a new one"},
        {"expires now", HEADER, CLAIMS(",\"exp\":1800000000"), TOKEN_EXPIRED,
         "token expired at 2027-01-15T08:00:00Z; it is 2027-01-15T08:00:00Z here: get a new one"},
        {"nbf ahead", HEADER, CLAIMS(",\"exp\":1800003600,\"nbf\":1800000006"), TOKEN_NOT_YET,
         "token is not good before 2027-01-15T08:00:06Z (nbf); it is 2027-01-15T08:00:00Z here: "
         "wait, or check the clocks"},
        {"nbf a string", HEADER, CLAIMS(",\"exp\":1800003600,\"nbf\":\"1\""), TOKEN_CLAIM,
         "claim nbf must be a whole number of seconds since 1970"},
        {"iat ahead", HEADER, CLAIMS(",\"exp\":1800003600,\"iat\":1800000900"), TOKEN_NOT_YET,
         "token is not good before 2027-01-15T08:15:00Z (iat); it is 2027-01-15T08:00:00Z here: "
         "wait, or check the clocks"},
        {"jti a number", HEADER, CLAIMS(",\"exp\":1800003600,\"jti\":5"), TOKEN_CLAIM,
         "claim jti must be a string of 1 to 255 bytes"},
        {"acl an object", HEADER, CLAIMS(",\"exp\":1800003600,\"acl\":{}"), TOKEN_ACL,
         "claim acl must be an array of {permission, action, topic}"},
        {"acl entry bad", HEADER,
         CLAIMS(",\"exp\":1800003600,\"acl\":[{\"permission\":\"allow\",\"action\":\"all\","
                "\"topic\":\"a\"},{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"a/#/"
                "b\"}]"),
         TOKEN_ACL, "acl entry 2: filter \"a/#/b\": # must be the last level"},
        {"limits", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":{\"connections\":1}"), TOKEN_OK,
         NULL},
        {"limits, none", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":{}"), TOKEN_OK, NULL},
        {"limits an array", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":[]"), TOKEN_CLAIM,
         "claim limits must be an object"},
        {"limits null", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":null"), TOKEN_CLAIM,
         "claim limits must be an object"},
        {"limit unknown", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":{\"conections\":1}"),
         TOKEN_CLAIM,
         "claim limits: there is no limit \"conections\"; there are connections events_per_s "
         "bytes_per_s event_bytes subscriptions"},
        {"limit 0", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":{\"connections\":0}"),
         TOKEN_CLAIM, "claim limits: connections must be a whole number from 1 on"},
        {"limit negative", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":{\"events_per_s\":-1}"),
         TOKEN_CLAIM, "claim limits: events_per_s must be a whole number from 1 on"},
        {"limit a real", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":{\"bytes_per_s\":1.5}"),
         TOKEN_CLAIM, "claim limits: bytes_per_s must be a whole number from 1 on"},
        {"limit a string", HEADER, CLAIMS(",\"exp\":1800003600,\"limits\":{\"event_bytes\":\"1\"}"),
         TOKEN_CLAIM, "claim limits: event_bytes must be a whole number from 1 on"},
        {"payload an array", HEADER, "[]", TOKEN_MALFORMED, "token payload is not a JSON object"},
        {"payload bad UTF-8", HEADER, CLAIMS(",\"x\":\"\xff\""), TOKEN_MALFORMED,
         "token payload is not UTF-8"},
        {"payload nests 17 deep", HEADER,
         CLAIMS(",\"exp\":1800003600,\"x\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]"), TOKEN_MALFORMED,
         "token payload nests deeper than 16 levels"},
        {"something after the payload", HEADER, GOOD "x", TOKEN_MALFORMED,
         "token payload is not JSON, at byte 58"},
};

/* text with $A and $K replaced */
static void fill_in(const char *text, size_t key, struct buf *out)
{
	for (; *text; text++) {
		if (text[0] == '$' && text[1] == 'A')
			buf_append_str(out, jws_alg_name(keys[key].alg));
		else if (text[0] == '$' && text[1] == 'K')
			buf_append_str(out, keys[key].kid);
		else
			buf_u8(out, (uint8_t)*text);
		text += text[0] == '$';
	}
}

static void sign(size_t key, const char *header, const char *payload, struct buf *token)
{
	struct buf h = {0}, p = {0};

	fill_in(header, key, &h);
	fill_in(payload, key, &p);
	assert_int_equal(token_sign(signers[key], buf_slice(&h), buf_slice(&p), token, NULL), 0);
	buf_release(&h);
	buf_release(&p);
}

static void test_token_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof signed_rows / sizeof *signed_rows; i++) {
		const struct signed_row *row = &signed_rows[i];

		for (size_t key = 0; key < JWS_ALG_COUNT; key++) {
			struct token_answer a;
			struct buf token = {0};
			struct claims c;

			sign(key, row->header, row->payload, &token);
			if (row->answer)
				assert_refused(row->name, buf_slice(&token), row->why, row->answer);
			else if (verify(buf_slice(&token), &c, &a) < 0)
				fail_msg("%s: %s", row->name, a.text);
			else
				claims_release(&c);
			buf_release(&token);
		}
	}
}

/* ---- wrong signatures and confused algorithms ---- */

static void refuse_and_release(const char *name, struct buf *token)
{
	assert_refused(name, buf_slice(token), TOKEN_UNVERIFIED, UNVERIFIED_TEXT);
	buf_clear(token);
}

static void test_token_algorithm_confusion(void **state)
{
	struct buf token = {0};
	uint8_t mac[32];
	struct token_answer a;
	struct claims c;
	(void)state;

	/* the one libjwt 1.10 accepts: HS256, keyed with the public key of an RS256 row */
	base64url_encode(slice_str("{\"alg\":\"HS256\",\"kid\":\"k-RS256\"}"), &token);
	buf_u8(&token, '.');
	base64url_encode(slice_str(GOOD), &token);
	HMAC(EVP_sha256(), key_rsa_public, sizeof key_rsa_public - 1, (uint8_t *)token.data,
	     token.len, mac, NULL);
	buf_u8(&token, '.');
	base64url_encode(slice(mac, sizeof mac), &token);
	assert_int_equal(verify(buf_slice(&token), &c, &a), -1);
	assert_string_equal(a.detail, "algorithm HS256 is not the key's RS256");
	refuse_and_release("HS256 with the public key", &token);

	sign(JWS_HS256, "{\"alg\":\"HS256\",\"kid\":\"k-RS256\"}", GOOD, &token);
	refuse_and_release("HS256 under an RS256 kid", &token);
	sign(JWS_RS256, "{\"alg\":\"RS256\",\"kid\":\"k-HS256\"}", GOOD, &token);
	refuse_and_release("RS256 under an HS256 kid", &token);
	sign(JWS_PS256, "{\"alg\":\"RS256\",\"kid\":\"k-RS256\"}", GOOD, &token);
	refuse_and_release("PS256 signature called RS256", &token);
	sign(JWS_RS256, "{\"alg\":\"PS256\",\"kid\":\"k-RS256\"}", GOOD, &token);
	refuse_and_release("PS256 under an RS256 kid", &token);
	sign(JWS_ES256, "{\"alg\":\"EdDSA\",\"kid\":\"k-EdDSA\"}", GOOD, &token);
	refuse_and_release("ES256 signature called EdDSA", &token);
	buf_release(&token);
}

/* Every byte of the token, changed in turn, is refused. */
static void test_token_tampered(void **state)
{
	struct buf token = {0};
	(void)state;

	for (size_t key = 0; key < JWS_ALG_COUNT; key++) {
		size_t step = key == JWS_HS256 ? 1 : 13;

		buf_clear(&token);
		sign(key, HEADER, GOOD, &token);
		for (size_t i = 0; i < token.len; i += step) {
			char was = token.data[i];
			struct token_answer a;
			struct claims c;

			token.data[i] = was == 'A' ? 'B' : 'A';
			if (verify(buf_slice(&token), &c, &a) == 0)
				fail_msg("byte %zu of %zu changed, accepted", i, token.len);
			token.data[i] = was;
		}
	}
	buf_release(&token);
}

static void test_token_shapes(void **state)
{
	static const struct {
		const char *name, *text;
		enum token_refusal why;
		const char *answer;
	} rows[] = {
	        {"empty", "", TOKEN_MALFORMED,
	         "not a JWT: it must have three parts, header.payload.signature"},
	        {"one part", "abc", TOKEN_MALFORMED,
	         "not a JWT: it must have three parts, header.payload.signature"},
	        {"two parts", "abc.def", TOKEN_MALFORMED,
	         "not a JWT: it must have three parts, header.payload.signature"},
	        {"five parts: JWE", "a.b.c.d.e", TOKEN_MALFORMED,
	         "not a JWT: it must have three parts, header.payload.signature"},
	        {"dots", "..", TOKEN_MALFORMED, "token header is not JSON, at byte 0"},
	        {"padded", "eyJhbGciOiJIUzI1NiJ9=.e30.e30", TOKEN_MALFORMED,
	         "token header is not base64url without padding"},
	        {"base64, not url", "e+/9.e30.e30", TOKEN_MALFORMED,
	         "token header is not base64url without padding"},
	        {"payload not base64url", "e30.e3 0.e30", TOKEN_MALFORMED,
	         "token payload is not base64url without padding"},
	        {"signature not base64url", "e30.e30.*", TOKEN_MALFORMED,
	         "token signature is not base64url without padding"},
	};
	char nul[] = "e30.e30\0.e30";
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		assert_refused(rows[i].name, slice_str(rows[i].text), rows[i].why, rows[i].answer);
	assert_refused("NUL inside", slice(nul, sizeof nul - 1), TOKEN_MALFORMED,
	               "token payload is not base64url without padding");
}

/* Signature left out: the classic. */
static void test_token_no_signature(void **state)
{
	struct buf token = {0};
	(void)state;

	for (size_t key = 0; key < JWS_ALG_COUNT; key++) {
		sign(key, HEADER, GOOD, &token);
		token.len = (size_t)((char *)memrchr(token.data, '.', token.len) - token.data) + 1;
		refuse_and_release("no signature", &token);
	}
	buf_release(&token);
}

static void test_token_huge(void **state)
{
	size_t n = 64 * 1024;
	char *text = malloc(n);
	struct buf token = {0}, deep = {0};
	uint64_t t0, t1;
	(void)state;

	memset(text, 'A', n);
	assert_refused("64 KiB", slice(text, n), TOKEN_TOO_LONG,
	               "token has 65536 bytes; at most 16384 are allowed");
	buf_append_str(&deep, "{\"x\":");
	for (int i = 0; i < 5000; i++)
		buf_u8(&deep, '[');
	sign(JWS_HS256, HEADER, "{}", &token);
	buf_clear(&token);
	assert_int_equal(token_sign(signers[0], slice_str("{\"alg\":\"HS256\",\"kid\":\"k\"}"),
	                            buf_slice(&deep), &token, NULL),
	                 0);
	t0 = clock_us();
	assert_refused("depth 5000", buf_slice(&token), TOKEN_MALFORMED,
	               "token payload nests deeper than 16 levels");
	t1 = clock_us();
	assert_true(t1 - t0 < 20000); /* microseconds: with room for a busy machine */
	buf_release(&token);
	buf_release(&deep);
	free(text);
}

/* ---- no oracle, and the rest ---- */

static void test_token_suspended_tenant(void **state)
{
	struct buf token = {0};
	(void)state;

	sign(JWS_HS256, "{\"alg\":\"HS256\",\"kid\":\"k-late\"}", GOOD, &token);
	assert_refused("suspended", buf_slice(&token), TOKEN_SUSPENDED,
	               "the tenant is suspended; ask its operator");
	/* without a good signature nobody learns that */
	token.data[token.len - 10] ^= 1;
	assert_refused("suspended, bad signature", buf_slice(&token), TOKEN_UNVERIFIED,
	               UNVERIFIED_TEXT);
	buf_release(&token);
}

static void test_token_lifetime(void **state)
{
	struct token_settings s = {.audience = "leat", .max_lifetime_s = 3600};
	struct token_answer a;
	struct buf token = {0};
	struct claims c;
	(void)state;

	sign(JWS_HS256, HEADER, CLAIMS(",\"exp\":1800003600"), &token);
	assert_int_equal(token_verify(registry, &s, buf_slice(&token), NOW, &c, &a), 0);
	claims_release(&c);
	buf_clear(&token);
	sign(JWS_HS256, HEADER, CLAIMS(",\"exp\":1800003600,\"iat\":1799999999"), &token);
	assert_int_equal(token_verify(registry, &s, buf_slice(&token), NOW, &c, &a), -1);
	assert_int_equal(a.why, TOKEN_LIFETIME);
	assert_string_equal(a.text, "token is good for 3601 s; at most 3600 s are allowed");
	buf_release(&token);
}

static void test_token_limits(void **state)
{
	struct token_answer a;
	struct buf token = {0};
	struct claims c;

	(void)state;
	sign(0, HEADER,
	     CLAIMS(",\"exp\":1800003600,\"limits\":{\"connections\":2,\"event_bytes\":100}"),
	     &token);
	assert_int_equal(verify(buf_slice(&token), &c, &a), 0);
	assert_true(c.limits.any);
	assert_int_equal(c.limits.connections, 2);
	assert_int_equal(c.limits.event_bytes, 100);
	assert_int_equal(c.limits.events_per_s, 0);
	claims_release(&c);
	buf_clear(&token);
	sign(0, HEADER, GOOD, &token);
	assert_int_equal(verify(buf_slice(&token), &c, &a), 0);
	assert_false(c.limits.any);
	claims_release(&c);
	buf_release(&token);
}

static void test_token_minted(void **state)
{
	const char *publish[] = {"out/#"}, *subscribe[] = {"in/+", "news"};
	struct token_spec spec = {
	        .issuer = "iss",
	        .subject = "alice \xc3\xa9",
	        .audience = "leat",
	        .issued_s = NOW,
	        .expires_s = NOW + 60,
	        .publish = publish,
	        .publish_count = 1,
	        .subscribe = subscribe,
	        .subscribe_count = 2,
	};
	(void)state;

	for (size_t key = 0; key < JWS_ALG_COUNT; key++) {
		struct token_answer a;
		struct buf token = {0};
		struct claims c;

		spec.kid = keys[key].kid;
		assert_int_equal(token_mint(signers[key], &spec, &token, NULL), 0);
		if (verify(buf_slice(&token), &c, &a) < 0)
			fail_msg("%s: %s", spec.kid, a.text);
		assert_int_equal(c.tenant->id, 1);
		assert_int_equal(c.expires_s, NOW + 60);
		assert_int_equal(c.issued_s, NOW);
		assert_string_equal(c.subject.p, spec.subject);
		assert_int_equal(c.token_id.n, 32);
		assert_int_equal(acl_bind(c.acl, c.subject, slice_str("c"), NULL), 0);
		assert_true(acl_may_publish(c.acl, slice_str("out/x")));
		assert_false(acl_may_publish(c.acl, slice_str("in/x")));
		assert_true(acl_may_subscribe(c.acl, slice_str("news")));
		assert_false(acl_may_subscribe(c.acl, slice_str("out/x")));
		claims_release(&c);
		buf_release(&token);
	}
}

static void test_token_mint_refuses(void **state)
{
	const char *bad[] = {"a/#/b"}, *not_utf8[] = {"\xff"};
	const struct token_spec good = {.kid = "k",
	                                .issuer = "i",
	                                .subject = "s",
	                                .audience = "leat",
	                                .issued_s = 1,
	                                .expires_s = 2};
	struct token_spec spec = good;
	struct buf token = {0};
	struct err e;
	(void)state;

	assert_int_equal(token_mint(signers[0], &spec, &token, &e), 0);
	buf_clear(&token);
	spec.publish = bad;
	spec.publish_count = 1;
	assert_int_equal(token_mint(signers[0], &spec, &token, &e), -1);
	assert_string_equal(e.text, "acl entry 1: filter \"a/#/b\": # must be the last level");
	spec.publish = not_utf8;
	assert_int_equal(token_mint(signers[0], &spec, &token, &e), -1);
	assert_string_equal(e.text, "a filter is not UTF-8");
	spec = good;
	spec.kid = "a b";
	assert_int_equal(token_mint(signers[0], &spec, &token, &e), -1);
	spec = good;
	spec.subject = "";
	assert_int_equal(token_mint(signers[0], &spec, &token, &e), -1);
	spec = good;
	spec.expires_s = 1;
	assert_int_equal(token_mint(signers[0], &spec, &token, &e), -1);
	assert_int_equal(token.len, 0);
	buf_release(&token);
}

/* Tokens made by another implementation. */
static void test_token_pyjwt(void **state)
{
	static const char *const tokens[] = {pyjwt_hs256, pyjwt_rs256, pyjwt_ps256, pyjwt_es256,
	                                     pyjwt_eddsa};
	(void)state;

	for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
		struct token_answer a;
		struct claims c;
		uint64_t t0;

		if (verify(slice_str(tokens[i]), &c, &a) < 0)
			fail_msg("%s", a.text);
		claims_release(&c);
		t0 = clock_us();
		for (int j = 0; j < 200; j++) {
			assert_int_equal(verify(slice_str(tokens[i]), &c, &a), 0);
			claims_release(&c);
		}
		print_message("%s whole token %.1f us\n", jws_alg_name(keys[i].alg),
		              (double)(clock_us() - t0) / 200);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_token_rows),
	        cmocka_unit_test(test_token_algorithm_confusion),
	        cmocka_unit_test(test_token_tampered),
	        cmocka_unit_test(test_token_shapes),
	        cmocka_unit_test(test_token_no_signature),
	        cmocka_unit_test(test_token_huge),
	        cmocka_unit_test(test_token_suspended_tenant),
	        cmocka_unit_test(test_token_lifetime),
	        cmocka_unit_test(test_token_limits),
	        cmocka_unit_test(test_token_minted),
	        cmocka_unit_test(test_token_mint_refuses),
	        cmocka_unit_test(test_token_pyjwt),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, setup, teardown);
}
