#include "node/net/tls_psk.h"

#include "base/mem.h"

#include <assert.h>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <string.h>

static const char key_info[] = "leat tls 1.3 psk";
static const char identity_info[] = "leat tls 1.3 psk identity";
static const unsigned char suite[2] = {0x13, 0x01}; /* of the key's hash, SHA-256 */

static void derive(struct slice secret, const char *info, uint8_t *out, size_t n)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
	OSSL_PARAM params[] = {
	        OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 6),
	        OSSL_PARAM_octet_string(OSSL_KDF_PARAM_KEY, (char *)secret.p, secret.n),
	        OSSL_PARAM_octet_string(OSSL_KDF_PARAM_INFO, (char *)info, strlen(info)),
	        OSSL_PARAM_END,
	};

	if (!ctx || EVP_KDF_derive(ctx, out, n, params) != 1)
		fatal("openssl: no HKDF");
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
}

void tls_psks_add(struct tls_psks *psks, struct slice secret)
{
	struct tls_psk *psk = &psks->v[psks->n++];

	assert(psks->n <= TLS_PSKS_MAX);
	derive(secret, key_info, psk->key, sizeof psk->key);
	derive(secret, identity_info, psk->identity, sizeof psk->identity);
}

void tls_psks_wipe(struct tls_psks *psks)
{
	OPENSSL_cleanse(psks, sizeof *psks);
}

/* ---- a context's own copy ----------------------------------------------------------------------
 */

static void on_ctx_free(void *ctx, void *psks, CRYPTO_EX_DATA *data, int index, long n, void *arg)
{
	(void)ctx;
	(void)data;
	(void)index;
	(void)n;
	(void)arg;
	OPENSSL_clear_free(psks, sizeof(struct tls_psks));
}

static int place_in_ctx(void)
{
	static int index = -1;

	if (index < 0)
		index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, on_ctx_free);
	if (index < 0)
		fatal("openssl: no place for a key");
	return index;
}

static const struct tls_psks *psks_of(const SSL *ssl)
{
	return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), place_in_ctx());
}

/* ---- handshakes --------------------------------------------------------------------------------
 */

/* OpenSSL takes an external key as a session that never was; NULL = out of memory. */
static SSL_SESSION *session_of(SSL *ssl, const struct tls_psk *psk)
{
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
	SSL_SESSION *s = SSL_SESSION_new();

	if (s && cipher && SSL_SESSION_set1_master_key(s, psk->key, sizeof psk->key) &&
	    SSL_SESSION_set_cipher(s, cipher) &&
	    SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION))
		return s;
	SSL_SESSION_free(s);
	return NULL;
}

static int on_find(SSL *ssl, const unsigned char *id, size_t n, SSL_SESSION **out)
{
	const struct tls_psks *psks = psks_of(ssl);

	*out = NULL;
	for (size_t i = 0; i < psks->n; i++) {
		const struct tls_psk *psk = &psks->v[i];

		if (n == sizeof psk->identity && memcmp(id, psk->identity, n) == 0) {
			*out = session_of(ssl, psk);
			return *out != NULL;
		}
	}
	return 1; /* not known: without a certificate the handshake ends there */
}

static int on_use(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *n,
                  SSL_SESSION **out)
{
	const struct tls_psk *psk = &psks_of(ssl)->v[0];

	*out = NULL;
	*id = psk->identity;
	*n = sizeof psk->identity;
	/* asked again after a HelloRetryRequest, with the hash of the suite chosen */
	if (md && EVP_MD_get_type(md) != NID_sha256)
		return 1;
	*out = session_of(ssl, psk);
	return *out != NULL;
}

void tls_psks_use(SSL_CTX *ctx, const struct tls_psks *psks)
{
	struct tls_psks *own = OPENSSL_malloc(sizeof *own);

	if (!own || !SSL_CTX_set_ex_data(ctx, place_in_ctx(), own) ||
	    !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") ||
	    !SSL_CTX_set_num_tickets(ctx, 0))
		fatal("openssl: cannot set up TLS with a key");
	/* a server that answers with a certificate instead is not trusted: there are no roots */
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	*own = *psks;
	SSL_CTX_set_psk_find_session_callback(ctx, on_find);
	SSL_CTX_set_psk_use_session_callback(ctx, on_use);
}
