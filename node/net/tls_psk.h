/* tls_psk: TLS by a secret that both sides know, instead of certificates: TLS 1.3 with an external
 * pre-shared key and (EC)DHE (RFC 8446, 2.2), so that a secret that leaks later opens no recorded
 * connection. Whoever does not know it gets no further than the handshake. While a secret is being
 * changed there are two: a handshake names the one it is by. Loop thread. */
#ifndef LEAT_NODE_TLS_PSK_H
#define LEAT_NODE_TLS_PSK_H

#include "base/slice.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ssl_ctx_st SSL_CTX;

enum { TLS_PSKS_MAX = 2 };

struct tls_psk {
	uint8_t key[32];
	uint8_t identity[16]; /* its name in the handshake, which says nothing about it */
};

/* A client uses the first; a server takes each. */
struct tls_psks {
	struct tls_psk v[TLS_PSKS_MAX];
	size_t n;
};

void tls_psks_add(struct tls_psks *psks, struct slice secret); /* HKDF-SHA256 of it */
void tls_psks_wipe(struct tls_psks *psks);

/* Both sides: these keys, which are copied, and nothing else. */
void tls_psks_use(SSL_CTX *ctx, const struct tls_psks *psks);

#endif
