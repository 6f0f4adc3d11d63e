/* tls_psk: TLS by a secret that both sides know, instead of certificates: TLS 1.3 with an external
 * pre-shared key and (EC)DHE (RFC 8446, 2.2), so that a secret that leaks later opens no recorded
 * connection. Whoever does not know it gets no further than the handshake. Loop thread. */
#ifndef LEAT_NODE_TLS_PSK_H
#define LEAT_NODE_TLS_PSK_H

#include "base/slice.h"

#include <stdint.h>

typedef struct ssl_ctx_st SSL_CTX;

struct tls_psk {
	uint8_t key[32];
};

void tls_psk_derive(struct tls_psk *psk, struct slice secret); /* HKDF-SHA256 of it */
void tls_psk_wipe(struct tls_psk *psk);

/* Both sides: this key and nothing else. psk is borrowed while ctx or an SSL of it lives. */
void tls_psk_use(SSL_CTX *ctx, const struct tls_psk *psk);

#endif
