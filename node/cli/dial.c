#include "node/cli/dial.h"

#include "base/buf.h"
#include "base/mem.h"
#include "node/net/tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKEN_FILE_MAX = 16 * 1024 * 1024 }; /* bytes; bench reads one token for each tenant */

static int read_file(const char *path, char **text, struct err *e)
{
	FILE *f = fopen(path, "re");
	struct buf b = {0};
	size_t n;
	int bad;

	if (!f)
		return err_set(e, errno, "cannot open %s: %s", path, strerror(errno));
	do {
		n = fread(buf_extend(&b, 4096), 1, 4096, f);
		b.len -= 4096 - n;
	} while (n && b.len <= TOKEN_FILE_MAX);
	bad = ferror(f) || b.len > TOKEN_FILE_MAX;
	fclose(f);
	buf_u8(&b, '\0');
	*text = b.data;
	if (!bad)
		return 0;
	return err_set(e, 0, "cannot read %s, or it is larger than %d bytes", path, TOKEN_FILE_MAX);
}

static int read_tokens(struct dial *d, const char *path, struct err *e)
{
	char *save = NULL;
	size_t cap = 0;

	if (read_file(path, &d->text, e) < 0)
		return -1;
	for (char *t = strtok_r(d->text, " \t\r\n", &save); t;
	     t = strtok_r(NULL, " \t\r\n", &save)) {
		if (d->token_count == cap) {
			cap = cap ? cap * 2 : 1;
			d->tokens = xrealloc(d->tokens, cap * sizeof *d->tokens);
		}
		d->tokens[d->token_count++] = t;
	}
	return d->token_count ? 0 : err_set(e, 0, "%s holds no token", path);
}

static int set_credentials(struct dial *d, const struct dial_options *o, struct err *e)
{
	const char *user = o->username ? o->username : d->url.user[0] ? d->url.user : NULL;

	if (o->token && o->password)
		return err_set(e, 0, "--token and --password exclude each other");
	if (o->token && read_tokens(d, o->token, e) < 0)
		return -1;
	if (d->token_count)
		d->config.password = slice_str(d->tokens[0]);
	else
		d->config.password = slice_str(o->password);
	if (d->config.password.n > UINT16_MAX)
		return err_set(e, 0, "the token is longer than 65,535 bytes");
	/* 3.1.1 has no password without a user name */
	if (!user && d->config.password.p && d->config.version == MQTT_V311)
		user = "";
	d->config.username = slice_str(user);
	return 0;
}

static int set_tls(struct dial *d, const struct dial_options *o, struct err *e)
{
	const struct tls_client_options tls = {.ca_file = o->ca,
	                                       .cert_file = o->cert,
	                                       .key_file = o->cert_key ? o->cert_key : o->cert,
	                                       .alpn = "mqtt"};

	if (o->cert_key && !o->cert)
		return err_set(e, 0, "--cert-key goes with --cert: give the certificate, too");
	if (o->cert && !d->url.tls)
		return err_set(e, 0, "--cert needs TLS: give a URL mqtts://HOST[:PORT]");
	if (!d->url.tls)
		return 0;
	d->tls = tls_client_new(&tls, e);
	d->config.tls = d->tls;
	return d->tls ? 0 : -1;
}

int dial_open(struct dial *d, const struct dial_options *o, struct err *e)
{
	*d = (struct dial){0};
	if (client_url_parse(&d->url, o->url, e) < 0)
		return -1;
	d->config.addr = d->url.addr;
	d->config.version = o->mqtt == 0 ? MQTT_V5 : MQTT_V311;
	d->config.keep_alive_s = (uint16_t)((o->keep_alive_ms + 999) / 1000);
	d->config.clean_start = true;
	d->config.window = 1000;
	return set_credentials(d, o, e) < 0 || set_tls(d, o, e) < 0 ? -1 : 0;
}

void dial_release(struct dial *d)
{
	tls_client_free(d->tls);
	free(d->tokens);
	free(d->text);
	*d = (struct dial){0};
}
