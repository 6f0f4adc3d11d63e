#include "tenancy/jwk.h"

#include "base/log.h"
#include "base/mem.h"
#include "tenancy/base64url.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <string.h>

enum {
	COORDINATE = 32, /* bytes of x and y on P-256, and of an Ed25519 key */
	RSA_E_MAX = 8,   /* bytes; a larger exponent makes every token an attack on the processor */
};

static const struct kind {
	const char *kty, *crv;
	enum jws_alg algs[2]; /* the first one where it does not say */
} kinds[] = {
        {"RSA", NULL, {JWS_RS256, JWS_PS256}},
        {"EC", "P-256", {JWS_ES256, JWS_ES256}},
        {"OKP", "Ed25519", {JWS_EDDSA, JWS_EDDSA}},
        {"oct", NULL, {JWS_HS256, JWS_HS256}},
};

/* ---- what it says ---- */

static struct slice member(const json_t *v, const char *name)
{
	const json_t *m = json_object_get(v, name);

	return slice(json_string_value(m), json_string_length(m));
}

static const struct kind *kind_of(const json_t *v, struct err *e)
{
	struct slice kty = member(v, "kty"), crv = member(v, "crv");

	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		const struct kind *k = &kinds[i];

		if (slice_eq(kty, slice_str(k->kty)) &&
		    (!k->crv || slice_eq(crv, slice_str(k->crv))))
			return k;
	}
	err_set(e, 0, "a JWK is of kty RSA, EC (crv P-256), OKP (crv Ed25519) or oct");
	return NULL;
}

static int check_public(const json_t *v, struct err *e)
{
	static const char *const private[] = {"d", "p", "q", "dp", "dq", "qi", "oth"};

	for (size_t i = 0; i < sizeof private / sizeof *private; i++) {
		if (json_object_get(v, private[i]))
			return err_set(e, 0,
			               "this is a private key (it has a member %s): keep it, and "
			               "give its public half",
			               private[i]);
	}
	return 0;
}

static bool has_string(const json_t *array, const char *wanted)
{
	for (size_t i = 0; i < json_array_size(array); i++) {
		const char *s = json_string_value(json_array_get(array, i));

		if (s && strcmp(s, wanted) == 0)
			return true;
	}
	return false;
}

static int check_use(const json_t *v, struct err *e)
{
	const json_t *use = json_object_get(v, "use"), *ops = json_object_get(v, "key_ops");

	if (use && !slice_eq(member(v, "use"), slice_str("sig")))
		return err_set(e, 0, "this JWK is not for signatures: its use is not sig");
	if (ops && !has_string(ops, "verify"))
		return err_set(e, 0, "this JWK is not for verifying: key_ops has no verify");
	return 0;
}

static int take_alg(struct jwk *k, const struct kind *kind, struct err *e)
{
	const json_t *alg = json_object_get(k->json, "alg");
	struct slice name = member(k->json, "alg");

	k->alg = kind->algs[0];
	k->says_alg = alg != NULL;
	if (!alg)
		return 0;
	if (jws_alg_parse(name, &k->alg) == 0 &&
	    (k->alg == kind->algs[0] || k->alg == kind->algs[1]))
		return 0;
	return err_set(e, 0, "alg %.40s of this JWK is none of %s, or not for its kty",
	               log_quote(name.p, name.n), jws_alg_list);
}

static int describe(struct jwk *k, struct err *e)
{
	const struct kind *kind = kind_of(k->json, e);
	const json_t *kid = json_object_get(k->json, "kid");

	if (!kind || check_public(k->json, e) < 0 || check_use(k->json, e) < 0)
		return -1;
	if (kid && !json_is_string(kid))
		return err_set(e, 0, "kid of this JWK must be a string");
	k->kid = member(k->json, "kid");
	return take_alg(k, kind, e);
}

int jwk_from_json(const json_t *v, struct jwk *out, struct err *e)
{
	*out = (struct jwk){0};
	if (!json_is_object(v))
		return err_set(e, 0, "a JWK is a JSON object");
	out->json = json_incref((json_t *)v);
	if (describe(out, e) == 0)
		return 0;
	jwk_release(out);
	return -1;
}

/* Never quotes the text: it may be a secret. */
int jwk_parse(struct slice text, struct jwk *out, struct err *e)
{
	json_error_t why;
	json_t *v;
	int rc;

	*out = (struct jwk){0};
	if (text.n > JWS_MATERIAL_MAX)
		return err_set(e, 0, "a key has at most %d bytes; this one has %zu",
		               JWS_MATERIAL_MAX, text.n);
	v = json_loadb(text.p ? text.p : "", text.n, JSON_REJECT_DUPLICATES, &why);
	if (!v && json_error_code(&why) == json_error_duplicate_key)
		return err_set(e, 0, "this JWK has a member twice");
	if (!v)
		return err_set(e, 0, "this JWK is not JSON, at byte %d", why.position);
	rc = jwk_from_json(v, out, e);
	json_decref(v);
	return rc;
}

void jwk_release(struct jwk *k)
{
	json_decref(k->json);
	*k = (struct jwk){0};
}

bool jwk_is(struct slice text)
{
	size_t i = 0;
	bool found;
	json_t *v;

	while (i < text.n && strchr(" \t\r\n", text.p[i]))
		i++;
	if (i == text.n || text.p[i] != '{' || text.n > JWS_MATERIAL_MAX)
		return false;
	v = json_loadb(text.p, text.n, 0, NULL); /* duplicates are jwk_parse()'s to complain of */
	found = json_object_get(v, "kty") != NULL;
	json_decref(v);
	return found;
}

int jwk_check_alg(const struct jwk *k, enum jws_alg alg, struct err *e)
{
	const struct kind *kind = kind_of(k->json, e);

	if (!kind)
		return -1;
	if (k->says_alg ? alg == k->alg : alg == kind->algs[0] || alg == kind->algs[1])
		return 0;
	return err_set(e, 0, "this JWK is for %s, not for %s", jws_alg_name(k->alg),
	               jws_alg_name(alg));
}

/* ---- the key in it ---- */

/* A member of least to most bytes in base64url. */
static int bytes_of(const struct jwk *k, const char *name, size_t least, size_t most,
                    struct buf *out, struct err *e)
{
	struct slice text = member(k->json, name);

	if (text.n <= (most + 2) / 3 * 4 && base64url_decode(text, out) == 0 && out->len >= least &&
	    out->len <= most)
		return 0;
	return err_set(e, 0, "member %s of this JWK must be base64url of %zu to %zu bytes", name,
	               least, most);
}

static EVP_PKEY *from_params(const char *type, OSSL_PARAM_BLD *params)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	OSSL_PARAM *list = OSSL_PARAM_BLD_to_param(params);
	EVP_PKEY *pkey = NULL;

	if (!ctx || !list)
		fatal("out of memory");
	if (EVP_PKEY_fromdata_init(ctx) != 1 ||
	    EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, list) != 1)
		pkey = NULL;
	OSSL_PARAM_free(list);
	EVP_PKEY_CTX_free(ctx);
	ERR_clear_error();
	return pkey;
}

static EVP_PKEY *rsa_from(const struct buf *modulus, const struct buf *exponent)
{
	OSSL_PARAM_BLD *params = OSSL_PARAM_BLD_new();
	BIGNUM *n = BN_bin2bn((const uint8_t *)modulus->data, (int)modulus->len, NULL);
	BIGNUM *e = BN_bin2bn((const uint8_t *)exponent->data, (int)exponent->len, NULL);
	EVP_PKEY *pkey = NULL;

	if (!params || !n || !e || !OSSL_PARAM_BLD_push_BN(params, OSSL_PKEY_PARAM_RSA_N, n) ||
	    !OSSL_PARAM_BLD_push_BN(params, OSSL_PKEY_PARAM_RSA_E, e))
		fatal("out of memory");
	if (BN_is_odd(n) && BN_is_odd(e) && !BN_is_one(e))
		pkey = from_params("RSA", params);
	OSSL_PARAM_BLD_free(params);
	BN_free(n);
	BN_free(e);
	return pkey;
}

static EVP_PKEY *ec_from(const struct buf *x, const struct buf *y)
{
	OSSL_PARAM_BLD *params = OSSL_PARAM_BLD_new();
	uint8_t point[1 + 2 * COORDINATE] = {POINT_CONVERSION_UNCOMPRESSED};
	EVP_PKEY *pkey;

	memcpy(point + 1, x->data, COORDINATE);
	memcpy(point + 1 + COORDINATE, y->data, COORDINATE);
	if (!params ||
	    !OSSL_PARAM_BLD_push_utf8_string(params, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) ||
	    !OSSL_PARAM_BLD_push_octet_string(params, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point))
		fatal("out of memory");
	pkey = from_params("EC", params); /* checks that the point is on the curve */
	OSSL_PARAM_BLD_free(params);
	return pkey;
}

static EVP_PKEY *ed_from(const struct buf *x, const struct buf *none)
{
	(void)none;
	return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, (const uint8_t *)x->data,
	                                   x->len);
}

/* Which members make the key, how many bytes each may have, and what makes it of them. */
static const struct parts {
	struct {
		const char *name; /* NULL = there is no second one */
		size_t least, most;
	} m[2];
	EVP_PKEY *(*make)(const struct buf *first, const struct buf *second);
} parts_of[JWS_ALG_COUNT] = {
        [JWS_RS256] = {{{"n", 1, JWS_RSA_BITS_MAX / 8}, {"e", 1, RSA_E_MAX}}, rsa_from},
        [JWS_PS256] = {{{"n", 1, JWS_RSA_BITS_MAX / 8}, {"e", 1, RSA_E_MAX}}, rsa_from},
        [JWS_ES256] = {{{"x", COORDINATE, COORDINATE}, {"y", COORDINATE, COORDINATE}}, ec_from},
        [JWS_EDDSA] = {{{"x", COORDINATE, COORDINATE}, {NULL, 0, 0}}, ed_from},
};

EVP_PKEY *jwk_public_key(const struct jwk *k, struct err *e)
{
	const struct parts *p = &parts_of[k->alg];
	struct buf bytes[2] = {{0}, {0}};
	EVP_PKEY *pkey = NULL;
	int rc = 0;

	if (!p->make) {
		err_set(e, 0, "this JWK is a secret, and its alg wants a public key");
		return NULL;
	}
	for (int i = 0; i < 2 && p->m[i].name && rc == 0; i++)
		rc = bytes_of(k, p->m[i].name, p->m[i].least, p->m[i].most, &bytes[i], e);
	if (rc == 0 && !(pkey = p->make(&bytes[0], &bytes[1])))
		err_set(e, 0, "the numbers in this JWK are no %s key", jws_alg_name(k->alg));
	buf_release(&bytes[0]);
	buf_release(&bytes[1]);
	return pkey;
}

int jwk_secret(const struct jwk *k, struct buf *out, struct err *e)
{
	return bytes_of(k, "k", JWS_SECRET_MIN, JWS_SECRET_MAX, out, e);
}
