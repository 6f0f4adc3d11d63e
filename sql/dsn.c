#include "sql/dsn.h"

#include "base/mem.h"
#include "base/slice.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No message may echo the text: in a DSN with a forgotten escape any part can hold the password. */

static const struct dsn_option {
	const char *key;
	size_t offset; /* of its char * in struct dsn */
} options[] = {
        {"socket", offsetof(struct dsn, socket)},
        {"ssl-ca", offsetof(struct dsn, ssl_ca)},
        {"ssl-cert", offsetof(struct dsn, ssl_cert)},
        {"ssl-key", offsetof(struct dsn, ssl_key)},
        {"password-file", offsetof(struct dsn, password_file)},
};

static void wipe(char *s)
{
	if (s)
		explicit_bzero(s, strlen(s));
}

void dsn_release(struct dsn *d)
{
	wipe(d->password);
	free(d->user);
	free(d->password);
	for (unsigned i = 0; i < d->host_count; i++)
		free(d->hosts[i].name);
	free(d->schema);
	free(d->socket);
	free(d->ssl_ca);
	free(d->ssl_cert);
	free(d->ssl_key);
	free(d->password_file);
	*d = (struct dsn){0};
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte at *p, percent-decoded, and *p moved past it; -1 when it may not stand there. */
static int decode_byte(const char **p, const char *end)
{
	const char *s = *p;

	if (*s != '%') {
		*p = s + 1;
		return *s > 0x20 && *s < 0x7f ? (unsigned char)*s : -1;
	}
	if (end - s < 3 || hex_digit(s[1]) < 0 || hex_digit(s[2]) < 0)
		return -1;
	*p = s + 3;
	int v = hex_digit(s[1]) << 4 | hex_digit(s[2]);

	return v ? v : -1;
}

/* text[0..n) decoded into *out, which must be unset; `what` names the part. */
static int take_part(char **out, struct slice text, const char *what, struct err *e)
{
	const char *p = text.p, *end = text.p + text.n;

	if (*out)
		return err_set(e, 0, "dsn: %s is given twice", what);
	char *s = xmalloc(text.n + 1), *to = s;

	while (p < end) {
		int v = decode_byte(&p, end);

		if (v < 0) {
			explicit_bzero(s, text.n + 1);
			free(s);
			return err_set(
			        e, 0,
			        "dsn: %s holds a space, control, non-ASCII or NUL byte or a bad "
			        "escape: write it as %%XX",
			        what);
		}
		*to++ = (char)v;
	}
	*to = '\0';
	*out = s;
	return 0;
}

/* The part before the first of `stops` in *rest, which moves to that character. */
static struct slice cut(const char **rest, const char *stops)
{
	size_t n = strcspn(*rest, stops);
	struct slice s = slice(*rest, n);

	*rest += n;
	return s;
}

static int parse_port(struct dsn_host *h, struct slice s, struct err *e)
{
	unsigned long v = 0;

	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9' || v > 65535)
			v = 65536;
		else
			v = v * 10 + (unsigned long)(s.p[i] - '0');
	}
	if (v == 0 || v > 65535)
		return err_set(e, 0, "dsn: the port must be a number from 1 to 65535");
	h->port = (uint16_t)v;
	return 0;
}

static int parse_host(struct dsn *d, struct slice s, struct err *e)
{
	const char *end = s.p + s.n, *colon;
	struct dsn_host *h = &d->hosts[d->host_count];

	if (d->host_count == DSN_HOSTS_MAX)
		return err_set(e, 0, "dsn: more than %d hosts", DSN_HOSTS_MAX);
	d->host_count++;
	if (s.n && s.p[0] == '[') {
		const char *close = memchr(s.p, ']', s.n);

		if (!close || (close + 1 != end && close[1] != ':'))
			return err_set(e, 0, "dsn: write an IPv6 host as [address]:port");
		if (take_part(&h->name, slice(s.p + 1, (size_t)(close - s.p) - 1), "host", e))
			return -1;
		colon = close + 1 == end ? NULL : close + 1;
	} else {
		colon = memchr(s.p, ':', s.n);
		if (take_part(&h->name, slice(s.p, colon ? (size_t)(colon - s.p) : s.n), "host", e))
			return -1;
	}
	h->port = 3306;
	return colon ? parse_port(h, slice(colon + 1, (size_t)(end - colon) - 1), e) : 0;
}

static int parse_hosts(struct dsn *d, struct slice s, struct err *e)
{
	for (;;) {
		const char *comma = memchr(s.p, ',', s.n);
		size_t n = comma ? (size_t)(comma - s.p) : s.n;

		if (parse_host(d, slice(s.p, n), e))
			return -1;
		if (!comma)
			return 0;
		s = slice(comma + 1, s.n - n - 1);
	}
}

static int parse_authority(struct dsn *d, struct slice s, struct err *e)
{
	const char *at = memchr(s.p, '@', s.n), *end = s.p + s.n;

	if (!at)
		return err_set(e, 0,
		               "dsn: no user: mysql://USER[:PASSWORD]@HOST[:PORT]/SCHEMA[?…]");
	if (memchr(at + 1, '@', (size_t)(end - at) - 1))
		return err_set(e, 0, "dsn: more than one '@': write those of the password as %%40");
	const char *colon = memchr(s.p, ':', (size_t)(at - s.p));
	size_t user = (size_t)((colon ? colon : at) - s.p);

	if (take_part(&d->user, slice(s.p, user), "user", e))
		return -1;
	if (!*d->user)
		return err_set(e, 0, "dsn: the user is empty");
	if (colon &&
	    take_part(&d->password, slice(colon + 1, (size_t)(at - colon) - 1), "password", e))
		return -1;
	return parse_hosts(d, slice(at + 1, (size_t)(end - at) - 1), e);
}

static int parse_option(struct dsn *d, struct slice s, struct err *e)
{
	const char *eq = memchr(s.p, '=', s.n);
	struct slice key = slice(s.p, eq ? (size_t)(eq - s.p) : s.n);

	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
		char **field = (char **)((char *)d + options[i].offset);

		if (!slice_eq(key, slice_str(options[i].key)))
			continue;
		if (!eq || eq + 1 == s.p + s.n)
			return err_set(e, 0, "dsn: %s needs a value", options[i].key);
		return take_part(field, slice(eq + 1, (size_t)(s.p + s.n - eq) - 1), options[i].key,
		                 e);
	}
	return err_set(e, 0,
	               "dsn: unknown option; there are socket, ssl-ca, ssl-cert, ssl-key and "
	               "password-file");
}

/* What each part allows of the others. */
static int check(const struct dsn *d, struct err *e)
{
	for (unsigned i = 0; i < d->host_count; i++)
		if (!*d->hosts[i].name && (!d->socket || d->host_count > 1))
			return err_set(e, 0,
			               d->host_count > 1 ? "dsn: a host in the list is empty"
			                                 : "dsn: neither a host nor a socket");
	if (!*d->schema)
		return err_set(e, 0,
		               "dsn: no schema: mysql://USER[:PASSWORD]@HOST[:PORT]/SCHEMA[?…]");
	if (d->password && d->password_file)
		return err_set(e, 0, "dsn: both a password and a password-file");
	if (!d->ssl_cert != !d->ssl_key || (d->ssl_cert && !d->ssl_ca))
		return err_set(e, 0, "dsn: ssl-cert and ssl-key go together, and need ssl-ca");
	if (d->socket && d->ssl_ca)
		return err_set(e, 0, "dsn: a socket has no TLS: leave out socket or ssl-ca");
	if (d->socket && d->host_count > 1)
		return err_set(e, 0,
		               "dsn: a socket is one server: leave out socket or the other hosts");
	return 0;
}

static int parse(struct dsn *d, const char *text, struct err *e)
{
	static const char scheme[] = "mysql://";

	if (strnlen(text, DSN_MAX) == DSN_MAX)
		return err_set(e, 0, "dsn: longer than %d bytes", DSN_MAX - 1);
	if (strncmp(text, scheme, sizeof scheme - 1) != 0)
		return err_set(e, 0, "dsn: must begin with mysql://");
	text += sizeof scheme - 1;
	if (parse_authority(d, cut(&text, "/?#"), e))
		return -1;
	if (*text == '/')
		text++;
	if (take_part(&d->schema, cut(&text, "/?#"), "schema", e))
		return -1;
	if (*text && *text != '?')
		return err_set(e, 0,
		               "dsn: the schema is followed by something other than ?options");
	while (*text) {
		text++;
		if (parse_option(d, cut(&text, "&"), e))
			return -1;
	}
	return check(d, e);
}

int dsn_parse(struct dsn *d, const char *text, struct err *e)
{
	*d = (struct dsn){0};
	if (parse(d, text, e) == 0)
		return 0;
	dsn_release(d);
	return -1;
}

static int read_password(struct dsn *d, struct err *e)
{
	char line[1024];
	FILE *f = fopen(d->password_file, "re");

	if (!f)
		return err_set(e, errno, "dsn: password-file: %s", strerror(errno));
	setvbuf(f, NULL, _IONBF, 0); /* leave no copy in a stdio buffer */
	bool got = fgets(line, sizeof line, f) != NULL;

	fclose(f);
	if (!got || strlen(line) == sizeof line - 1) {
		explicit_bzero(line, sizeof line);
		return err_set(e, 0, "dsn: password-file: its first line is empty or too long");
	}
	line[strcspn(line, "\r\n")] = '\0';
	d->password = xstrdup(line);
	explicit_bzero(line, sizeof line);
	return 0;
}

int dsn_load(struct dsn *d, const char *text, struct err *e)
{
	if (dsn_parse(d, text, e))
		return -1;
	if (d->password_file && read_password(d, e)) {
		dsn_release(d);
		return -1;
	}
	return 0;
}

static char *copy(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

void dsn_copy(struct dsn *to, const struct dsn *from)
{
	*to = (struct dsn){
	        .user = copy(from->user),
	        .password = copy(from->password),
	        .host_count = from->host_count,
	        .schema = copy(from->schema),
	        .socket = copy(from->socket),
	        .ssl_ca = copy(from->ssl_ca),
	        .ssl_cert = copy(from->ssl_cert),
	        .ssl_key = copy(from->ssl_key),
	        .password_file = copy(from->password_file),
	};
	for (unsigned i = 0; i < from->host_count; i++)
		to->hosts[i] = (struct dsn_host){copy(from->hosts[i].name), from->hosts[i].port};
}

const char *dsn_describe(const struct dsn *d, char out[DSN_DESCRIBE_MAX])
{
	char hosts[DSN_DESCRIBE_MAX / 2] = "";
	size_t n = 0;

	for (unsigned i = 0; i < d->host_count && n < sizeof hosts; i++)
		n += (size_t)snprintf(hosts + n, sizeof hosts - n, "%s%s:%u", i ? "," : "",
		                      d->hosts[i].name, d->hosts[i].port);
	snprintf(out, DSN_DESCRIBE_MAX, "%s@%s/%s", d->user, d->socket ? d->socket : hosts,
	         d->schema);
	return out;
}
