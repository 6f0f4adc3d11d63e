/* dial: how `leat pub`, `sub` and `bench` reach a server: the options they share, and what these
 * come to: an address, TLS, credentials. Start-up only; owned by the command. */
#ifndef LEAT_NODE_DIAL_H
#define LEAT_NODE_DIAL_H

#include "base/err.h"
#include "node/cli/client.h"
#include "node/cli/options.h"

#include <stddef.h>
#include <stdint.h>

struct dial_options {
	const char *url;
	const char *ca;
	const char *cert;
	const char *cert_key;
	const char *token;
	const char *username;
	const char *password;
	int mqtt; /* index into DIAL_VERSIONS */
	uint64_t keep_alive_ms;
};

#define DIAL_VERSIONS "5|3.1.1"

/* The rows of a command's table; its options struct S has a struct dial_options `to`. */
#define DIAL_OPTION_ROWS(S)                                                                      \
	{"url",                                                                                  \
	 'u',                                                                                    \
	 OPTION_TEXT,                                                                            \
	 offsetof(S, to.url),                                                                    \
	 .arg = "URL",                                                                           \
	 .flags = OPTION_REQUIRED,                                                               \
	 .help = "mqtts://HOST[:PORT], or mqtt:// for plaintext"},                               \
	        {"ca",                                                                           \
	         0,                                                                              \
	         OPTION_TEXT,                                                                    \
	         offsetof(S, to.ca),                                                             \
	         .arg = "FILE",                                                                  \
	         .help = "certificates that vouch for the server (PEM); default: the system's"}, \
	        {"cert",                                                                         \
	         0,                                                                              \
	         OPTION_TEXT,                                                                    \
	         offsetof(S, to.cert),                                                           \
	         .env = "client-cert",                                                           \
	         .arg = "FILE",                                                                  \
	         .help = "our own certificate (PEM), instead of a token"},                       \
	        {"cert-key",                                                                     \
	         0,                                                                              \
	         OPTION_TEXT,                                                                    \
	         offsetof(S, to.cert_key),                                                       \
	         .env = "client-cert-key",                                                       \
	         .arg = "FILE",                                                                  \
	         .help = "its private key (PEM); default: it is in the file of --cert"},         \
	        {"token",       0,                                                               \
	         OPTION_TEXT,   offsetof(S, to.token),                                           \
	         .arg = "FILE", .help = "file with the token (JWT), sent as password"},          \
	        {"username",    0,                                                               \
	         OPTION_TEXT,   offsetof(S, to.username),                                        \
	         .arg = "NAME", .help = "MQTT user name"},                                       \
	        {"password",                                                                     \
	         0,                                                                              \
	         OPTION_TEXT,                                                                    \
	         offsetof(S, to.password),                                                       \
	         .arg = "TEXT",                                                                  \
	         .flags = OPTION_SECRET,                                                         \
	         .help = "MQTT password, instead of a token"},                                   \
	        {"mqtt",                                                                         \
	         0,                                                                              \
	         OPTION_CHOICE,                                                                  \
	         offsetof(S, to.mqtt),                                                           \
	         .env = "mqtt-version",                                                          \
	         .choices = DIAL_VERSIONS,                                                       \
	         .fallback = "5",                                                                \
	         .help = "protocol version"},                                                    \
	{                                                                                        \
		"keep-alive", 0, OPTION_DURATION, offsetof(S, to.keep_alive_ms),                 \
		        .arg = "TIME", .fallback = "30s", .max = 65535000,                       \
		        .help = "longest silence; 0s = off"                                      \
	}

struct dial {
	struct client_url url;
	struct tls_client *tls; /* NULL = plain */
	char *text;             /* the token file, cut into tokens */
	const char **tokens;    /* its lines that are not empty */
	size_t token_count;
	struct client_config config; /* addr, tls, version, credentials, keep-alive are set */
};

int dial_open(struct dial *d, const struct dial_options *o, struct err *e);
void dial_release(struct dial *d);

#endif
