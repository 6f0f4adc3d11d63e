#include "node/net/tls_psk.h"

#include "base/mem.h"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <string.h>

/* The key's name in the handshake: there is one. */
static const char identity[] = "leat";
static const char info[] = "leat tls 1.3 psk";
static const unsigned char suite[2] = {0x13, 0x01}; /* of the key's hash, SHA-256 */

void tls_psk_derive(struct tls_psk *psk, struct slice secret)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
	OSSL_PARAM params[] = {
	        OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 6),
	        OSSL_PARAM_octet_string(OSSL_KDF_PARAM_KEY, (char *)secret.p, secret.n),
	        OSSL_PARAM_octet_string(OSSL_KDF_PARAM_INFO, (char *)info, sizeof info - 1),
	        OSSL_PARAM_END,
	};

	if (!ctx || EVP_KDF_derive(ctx, psk->key, sizeof psk->key, params) != 1)
		fatal("openssl: no HKDF");
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
}

void tls_psk_wipe(struct tls_psk *psk)
{
	OPENSSL_cleanse(psk, sizeof *psk);
}

/* OpenSSL takes an external key as a session that never was; NULL = out of memory. */
static SSL_SESSION *session_of(SSL *ssl)
{
	const struct tls_psk *psk = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
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
	*out = NULL;
	if (n != sizeof identity - 1 || memcmp(id, identity, n) != 0)
		return 1; /* not known: without a certificate the handshake ends there */
	*out = session_of(ssl);
	return *out != NULL;
}

static int on_use(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *n,
                  SSL_SESSION **out)
{
	*out = NULL;
	*id = (const unsigned char *)identity;
	*n = sizeof identity - 1;
	/* asked again after a HelloRetryRequest, with the hash of the suite chosen */
	if (md && EVP_MD_get_type(md) != NID_sha256)
		return 1;
	*out = session_of(ssl);
	return *out != NULL;
}

void tls_psk_use(SSL_CTX *ctx, const struct tls_psk *psk)
{
	if (!SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") ||
	    !SSL_CTX_set_num_tickets(ctx, 0))
		fatal("openssl: cannot set up TLS with a key");
	/* a server that answers with a certificate instead is not trusted: there are no roots */
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_app_data(ctx, (void *)psk);
	SSL_CTX_set_psk_find_session_callback(ctx, on_find);
	SSL_CTX_set_psk_use_session_callback(ctx, on_use);
}
