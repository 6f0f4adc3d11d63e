#include "tenancy/jws.h"

#include "base/mem.h"
#include "tenancy/jwk.h"

#include <assert.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdint.h>
#include <stdlib.h>

enum {
	SHA256_BYTES = 32,
	ES256_PART = 32, /* bytes of r and of s */
	ES256_BYTES = 2 * ES256_PART,
	ES256_DER_MAX = 80,
};

struct jws_key {
	enum jws_alg alg;
	EVP_PKEY *pkey;  /* all but HS256 */
	EVP_MD_CTX *ctx; /* scratch of verify and sign */
	EVP_MD *sha256;  /* fetched once: a fetch costs more than an HMAC */
	size_t secret_len;
	uint8_t *secret; /* HS256 */
};

struct alg_row {
	const char *name;
	const char *key_type; /* as OpenSSL names it; NULL: a raw secret */
	const char *wanted;   /* for messages */
	bool pss;
};

static const struct alg_row algs[JWS_ALG_COUNT] = {
        [JWS_HS256] = {"HS256", NULL, "a raw secret", false},
        [JWS_RS256] = {"RS256", "RSA", "an RSA key", false},
        [JWS_PS256] = {"PS256", "RSA", "an RSA key", true},
        [JWS_ES256] = {"ES256", "EC", "an EC key on P-256", false},
        [JWS_EDDSA] = {"EdDSA", "ED25519", "an Ed25519 key", false},
};

const char jws_alg_list[] = "HS256, RS256, PS256, ES256, EdDSA";

const char *jws_alg_name(enum jws_alg alg)
{
	return algs[alg].name;
}

int jws_alg_parse(struct slice name, enum jws_alg *out)
{
	for (int i = 0; i < JWS_ALG_COUNT; i++) {
		if (slice_eq(name, slice_str(algs[i].name))) {
			*out = (enum jws_alg)i;
			return 0;
		}
	}
	return -1;
}

/* ---- keys ---- */

static struct jws_key *key_new(enum jws_alg alg)
{
	struct jws_key *k = xcalloc(1, sizeof *k);

	k->alg = alg;
	k->ctx = EVP_MD_CTX_new();
	k->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (!k->ctx || !k->sha256)
		fatal("OpenSSL has no SHA-256");
	return k;
}

void jws_key_free(struct jws_key *k)
{
	if (!k)
		return;
	if (k->secret)
		OPENSSL_cleanse(k->secret, k->secret_len);
	free(k->secret);
	EVP_PKEY_free(k->pkey);
	EVP_MD_CTX_free(k->ctx);
	EVP_MD_free(k->sha256);
	free(k);
}

enum jws_alg jws_key_alg(const struct jws_key *k)
{
	return k->alg;
}

bool jws_key_same(const struct jws_key *a, const struct jws_key *b)
{
	return a->alg == b->alg && a->pkey && b->pkey && EVP_PKEY_eq(a->pkey, b->pkey) == 1;
}

static bool is_pem(struct slice s)
{
	static const char begin[] = "-----BEGIN ";

	return s.n && memmem(s.p, s.n, begin, sizeof begin - 1);
}

static struct jws_key *raw_secret_key(struct slice secret, struct err *e)
{
	struct jws_key *k;

	/* a public key taken for a secret is a secret everybody knows */
	if (is_pem(secret)) {
		err_set(e, 0, "HS256 needs a raw secret; this is a PEM file");
		return NULL;
	}
	if (secret.n < JWS_SECRET_MIN || secret.n > JWS_SECRET_MAX) {
		err_set(e, 0, "an HS256 secret has %d to %d bytes; this one has %zu",
		        JWS_SECRET_MIN, JWS_SECRET_MAX, secret.n);
		return NULL;
	}
	k = key_new(JWS_HS256);
	k->secret = xmemdup(secret.p, secret.n);
	k->secret_len = secret.n;
	return k;
}

static struct jws_key *jwk_secret_key(struct slice text, struct err *e)
{
	struct jws_key *k = NULL;
	struct buf secret = {0};
	struct jwk j;

	if (jwk_parse(text, &j, e) < 0)
		return NULL;
	if (jwk_check_alg(&j, JWS_HS256, e) == 0 && jwk_secret(&j, &secret, e) == 0)
		k = raw_secret_key(buf_slice(&secret), e);
	if (secret.data)
		OPENSSL_cleanse(secret.data, secret.cap);
	buf_release(&secret);
	jwk_release(&j);
	return k;
}

static struct jws_key *secret_key(struct slice material, struct err *e)
{
	return jwk_is(material) ? jwk_secret_key(material, e) : raw_secret_key(material, e);
}

static int check_pkey(enum jws_alg alg, const EVP_PKEY *pkey, struct err *e)
{
	const struct alg_row *row = &algs[alg];
	char group[32] = "";
	int bits = EVP_PKEY_get_bits(pkey);

	if (!EVP_PKEY_is_a(pkey, row->key_type))
		return err_set(e, 0, "%s needs %s; this is another kind", row->name, row->wanted);
	if (strcmp(row->key_type, "RSA") == 0 &&
	    (bits < JWS_RSA_BITS_MIN || bits > JWS_RSA_BITS_MAX))
		return err_set(e, 0, "an RSA key has %d to %d bits; this one has %d",
		               JWS_RSA_BITS_MIN, JWS_RSA_BITS_MAX, bits);
	if (alg == JWS_ES256 && (!EVP_PKEY_get_group_name(pkey, group, sizeof group, NULL) ||
	                         strcmp(group, "prime256v1") != 0))
		return err_set(e, 0, "ES256 needs a key on P-256; this one is on %s", group);
	return 0;
}

/* No passphrase is asked for: a server has nobody to ask. */
static int no_passphrase(char *buf, int size, int rwflag, void *arg)
{
	(void)buf;
	(void)size;
	(void)rwflag;
	(void)arg;
	return -1;
}

static EVP_PKEY *read_pem(struct slice pem, bool want_private)
{
	BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
	EVP_PKEY *pkey;

	if (!bio)
		fatal("out of memory");
	pkey = want_private ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL)
	                    : PEM_read_bio_PUBKEY(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	ERR_clear_error();
	return pkey;
}

static int guess_jwk(struct slice material, enum jws_alg *out, struct err *e)
{
	struct jwk j;

	if (jwk_parse(material, &j, e) < 0)
		return -1;
	*out = j.alg;
	jwk_release(&j);
	return 0;
}

int jws_alg_guess(struct slice material, enum jws_alg *out, struct err *e)
{
	EVP_PKEY *pkey = NULL;
	int found = -1;

	if (jwk_is(material))
		return guess_jwk(material, out, e);
	*out = JWS_HS256;
	if (!is_pem(material))
		return 0;
	if (material.n <= JWS_MATERIAL_MAX && !(pkey = read_pem(material, true)))
		pkey = read_pem(material, false);
	for (int i = 0; pkey && found < 0 && i < JWS_ALG_COUNT; i++) {
		if (algs[i].key_type && EVP_PKEY_is_a(pkey, algs[i].key_type))
			found = i;
	}
	EVP_PKEY_free(pkey);
	if (found < 0)
		return err_set(e, 0,
		               "this PEM file has no RSA, EC or Ed25519 key, or a passphrase");
	*out = (enum jws_alg)found;
	return 0;
}

static struct jws_key *take_pkey(enum jws_alg alg, EVP_PKEY *pkey, struct err *e)
{
	struct jws_key *k;

	if (check_pkey(alg, pkey, e) < 0) {
		EVP_PKEY_free(pkey);
		return NULL;
	}
	k = key_new(alg);
	k->pkey = pkey;
	return k;
}

static struct jws_key *pem_key(enum jws_alg alg, struct slice pem, bool want_private, struct err *e)
{
	EVP_PKEY *pkey = pem.n <= JWS_MATERIAL_MAX ? read_pem(pem, want_private) : NULL;

	if (!pkey && !want_private && pem.n <= JWS_MATERIAL_MAX && (pkey = read_pem(pem, true))) {
		EVP_PKEY_free(pkey);
		err_set(e, 0,
		        "this is a private key, and it stays with who signs; make the public one "
		        "with: "
		        "openssl pkey -in FILE -pubout");
		return NULL;
	}
	if (!pkey) {
		err_set(e, 0, "%s needs %s in PEM, %s", algs[alg].name, algs[alg].wanted,
		        want_private ? "private and without a passphrase"
		                     : "BEGIN PUBLIC KEY, or as a JWK");
		return NULL;
	}
	return take_pkey(alg, pkey, e);
}

struct jws_key *jws_key_of_jwk(const struct jwk *k, struct err *e)
{
	EVP_PKEY *pkey = jwk_public_key(k, e);

	return pkey ? take_pkey(k->alg, pkey, e) : NULL;
}

static struct jws_key *jwk_key(enum jws_alg alg, struct slice text, struct err *e)
{
	EVP_PKEY *pkey = NULL;
	struct jwk j;

	if (jwk_parse(text, &j, e) < 0)
		return NULL;
	if (jwk_check_alg(&j, alg, e) == 0)
		pkey = jwk_public_key(&j, e);
	jwk_release(&j);
	return pkey ? take_pkey(alg, pkey, e) : NULL;
}

struct jws_key *jws_key_public(enum jws_alg alg, struct slice material, struct err *e)
{
	if (alg == JWS_HS256)
		return secret_key(material, e);
	return jwk_is(material) ? jwk_key(alg, material, e) : pem_key(alg, material, false, e);
}

struct jws_key *jws_key_private(enum jws_alg alg, struct slice material, struct err *e)
{
	return alg == JWS_HS256 ? secret_key(material, e) : pem_key(alg, material, true, e);
}

/* ---- signatures ---- */

static void hmac(const struct jws_key *k, struct slice input, uint8_t out[SHA256_BYTES])
{
	unsigned n = SHA256_BYTES;

	if (!HMAC(k->sha256, k->secret, (int)k->secret_len, (const uint8_t *)input.p, input.n, out,
	          &n))
		fatal("HMAC failed");
}

/* The signature as OpenSSL wants it: r and s of ES256 become DER. false: the length is wrong. */
static bool es256_to_der(struct slice raw, uint8_t der[ES256_DER_MAX], size_t *der_len)
{
	const uint8_t *p = (const uint8_t *)raw.p;
	ECDSA_SIG *sig;
	int n;

	if (raw.n != ES256_BYTES)
		return false;
	sig = ECDSA_SIG_new();
	if (!sig || !ECDSA_SIG_set0(sig, BN_bin2bn(p, ES256_PART, NULL),
	                            BN_bin2bn(p + ES256_PART, ES256_PART, NULL)))
		fatal("out of memory");
	n = i2d_ECDSA_SIG(sig, &der);
	ECDSA_SIG_free(sig);
	*der_len = n > 0 ? (size_t)n : 0;
	return n > 0;
}

static bool es256_from_der(const uint8_t *der, size_t len, uint8_t raw[ES256_BYTES])
{
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)len);
	bool ok = sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), raw, ES256_PART) == ES256_PART &&
	          BN_bn2binpad(ECDSA_SIG_get0_s(sig), raw + ES256_PART, ES256_PART) == ES256_PART;

	ECDSA_SIG_free(sig);
	return ok;
}

/* Make k->ctx ready to sign or verify. */
static bool start(const struct jws_key *k, bool sign)
{
	const char *md = k->alg == JWS_EDDSA ? NULL : "SHA256";
	EVP_PKEY_CTX *pctx = NULL;

	EVP_MD_CTX_reset(k->ctx);
	if ((sign ? EVP_DigestSignInit_ex(k->ctx, &pctx, md, NULL, NULL, k->pkey, NULL)
	          : EVP_DigestVerifyInit_ex(k->ctx, &pctx, md, NULL, NULL, k->pkey, NULL)) != 1)
		return false;
	return !algs[k->alg].pss ||
	       (EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING) == 1 &&
	        EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_DIGEST) == 1);
}

static bool pkey_verify(const struct jws_key *k, struct slice input, struct slice signature)
{
	uint8_t der[ES256_DER_MAX];
	bool ok;

	if (k->alg == JWS_ES256) {
		size_t n = 0;

		if (!es256_to_der(signature, der, &n))
			return false;
		signature = slice(der, n);
	}
	ok = start(k, false) && EVP_DigestVerify(k->ctx, (const uint8_t *)signature.p, signature.n,
	                                         (const uint8_t *)input.p, input.n) == 1;
	ERR_clear_error();
	return ok;
}

bool jws_verify(const struct jws_key *k, struct slice input, struct slice signature)
{
	uint8_t mac[SHA256_BYTES];

	if (k->alg != JWS_HS256)
		return pkey_verify(k, input, signature);
	hmac(k, input, mac);
	return signature.n == sizeof mac && CRYPTO_memcmp(mac, signature.p, sizeof mac) == 0;
}

int jws_sign(const struct jws_key *k, struct slice input, struct buf *signature, struct err *e)
{
	uint8_t sig[JWS_SIGNATURE_MAX], raw[ES256_BYTES];
	size_t n = sizeof sig;
	bool ok;

	if (k->alg == JWS_HS256) {
		hmac(k, input, sig);
		buf_append(signature, sig, SHA256_BYTES);
		return 0;
	}
	ok = start(k, true) &&
	     EVP_DigestSign(k->ctx, sig, &n, (const uint8_t *)input.p, input.n) == 1;
	ERR_clear_error();
	if (ok && k->alg == JWS_ES256) {
		ok = es256_from_der(sig, n, raw);
		memcpy(sig, raw, sizeof raw);
		n = sizeof raw;
	}
	if (!ok)
		return err_set(e, 0, "cannot sign with this %s key", algs[k->alg].name);
	buf_append(signature, sig, n);
	return 0;
}
