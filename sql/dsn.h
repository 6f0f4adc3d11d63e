/* dsn: where the database is and how to log in:
 *
 *   mysql://user:password@host:port/schema?socket=PATH&ssl-ca=F&ssl-cert=F&ssl-key=F&password-file=F
 *
 * Several hosts, host:port,host:port, are servers with the same data, to be tried in this order.
 * Every part may be percent-encoded; unknown or repeated options are errors. Plain data owned by
 * the caller, read-only after parsing, so any thread may read it. The password never appears in an
 * error or in dsn_describe(). */
#ifndef LEAT_SQL_DSN_H
#define LEAT_SQL_DSN_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

enum {
	DSN_MAX = 4096, /* bytes of text, NUL included */
	DSN_DESCRIBE_MAX = 512,
	DSN_HOSTS_MAX = 8,
};

struct dsn_host {
	char *name;    /* name or address, an IPv6 address without its brackets */
	uint16_t port; /* 3306 when the text names none */
};

struct dsn {
	char *user;
	char *password; /* NULL = none */
	struct dsn_host hosts[DSN_HOSTS_MAX];
	unsigned host_count; /* at least 1; with a socket 1, whose name may be empty */
	char *schema;        /* never empty */
	char *socket;        /* NULL = TCP */
	char *ssl_ca;   /* NULL = no TLS; a PEM file = TLS, certificate and host name verified */
	char *ssl_cert; /* NULL or our own certificate (PEM file) */
	char *ssl_key;  /* NULL or its key (PEM file) */
	char *password_file; /* NULL or the file dsn_load() takes the password from */
};

/* Parse only: opens no file. On error *d is empty and needs no release. */
int dsn_parse(struct dsn *d, const char *text, struct err *e);

/* dsn_parse(), then read password_file (first line) when one is named. */
int dsn_load(struct dsn *d, const char *text, struct err *e);

void dsn_copy(struct dsn *to, const struct dsn *from); /* to needs a dsn_release() of its own */
void dsn_release(struct dsn *d);                       /* wipes the password */

/* "user@host:3306/schema", for logs and messages; cut when too long. Returns out. */
const char *dsn_describe(const struct dsn *d, char out[DSN_DESCRIBE_MAX]);

#endif
