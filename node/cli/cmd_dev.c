/* leat dev: a bus to try things with: one command, no database, nothing kept but its files. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/id128.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/cli/command.h"
#include "node/cli/options.h"
#include "node/net/ca.h"
#include "node/node.h"
#include "tenancy/token.h"
#include "tenancy/token_mint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DEV_TENANT "dev"
#define DEV_ISSUER "dev"
#define DEV_KID "dev"

enum {
	DEV_TOKEN_S = 30 * 24 * 3600, /* life of a new token */
	DEV_TOKEN_LEFT_S = 24 * 3600, /* a token with less than this left is replaced */
	DEV_DIR = 992,                /* bytes of the directory's name */
	DEV_PATH = 1024,              /* bytes */
	DEV_MEMORY_BYTES = 256 << 20,
};

struct dev_options {
	const char *dir;
	uint64_t mqtt_port;
	uint64_t admin_port;
	int log_level;
};

#define AT(field) offsetof(struct dev_options, field)
static const struct option rows[] = {
        {"dir", 0, OPTION_TEXT, AT(dir), .arg = "DIR",
         .help = "its CA, key and token; default ~/.local/state/leat-dev"},
        {"mqtt-port", 0, OPTION_NUMBER, AT(mqtt_port), .arg = "N", .fallback = "8883",
         .help = "MQTT over TLS; 0 = a free port", .max = UINT16_MAX},
        {"admin-port", 0, OPTION_NUMBER, AT(admin_port), .arg = "N", .fallback = "9090",
         .help = "health and metrics; 0 = a free port", .max = UINT16_MAX},
        {"log-level", 0, OPTION_CHOICE, AT(log_level), .arg = "LEVEL", .fallback = "warn",
         .choices = "debug|info|warn|error", .help = "debug, info, warn or error"},
};
static const struct options spec = {
        "dev", "a bus to try things with: no database, its own CA, tenant and token",
        OPTIONS_ROWS(rows)};

/* What the directory holds. */
struct dev {
	char dir[DEV_DIR];
	struct buf secret; /* HS256 key, as in DIR/dev.key */
	struct buf token;
	struct tenant tenant;
	struct registry_key_row key;
};

static const char *path_in(const struct dev *d, const char *name, char out[DEV_PATH])
{
	snprintf(out, DEV_PATH, "%s/%s", d->dir, name);
	return out;
}

/* ---- the directory --------------------------------------------------------------------------- */

static int take_dir(struct dev *d, const char *dir, struct err *e)
{
	const char *state = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");
	int n;

	if (dir)
		n = snprintf(d->dir, sizeof d->dir, "%s", dir);
	else if (state && state[0] == '/')
		n = snprintf(d->dir, sizeof d->dir, "%s/leat-dev", state);
	else if (home && home[0] == '/')
		n = snprintf(d->dir, sizeof d->dir, "%s/.local/state/leat-dev", home);
	else
		return err_set(e, 0, "there is no HOME: say where with --dir");
	return n < DEV_DIR ? 0 : err_set(e, 0, "the name of the directory is too long");
}

static int make_parents(const struct dev *d, struct err *e)
{
	char path[DEV_PATH];

	snprintf(path, sizeof path, "%s", d->dir);
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return err_set(e, errno, "cannot make %s: %s", path, strerror(errno));
		*slash = '/';
	}
	return 0;
}

/* ---- key and token --------------------------------------------------------------------------- */

static int make_secret(const char *path, struct buf *out, struct err *e)
{
	for (int i = 0; i < 2; i++) {
		struct id128 half = id128_random();
		char hex[ID128_HEX];

		id128_hex(&half, hex);
		buf_append_str(out, hex);
	}
	return file_write_private(path, buf_slice(out), e);
}

static int take_key(struct dev *d, struct err *e)
{
	char path[DEV_PATH];
	int rc;

	path_in(d, "dev.key", path);
	rc = file_read(path, JWS_SECRET_MAX, &d->secret, e);
	if (rc < 0 && e->code == ENOENT)
		rc = make_secret(path, &d->secret, e);
	if (rc < 0)
		return -1;
	d->tenant = (struct tenant){
	        .id = 1, .weight = 1, .partitions = 1, .state = TENANT_ACTIVE, .name = DEV_TENANT};
	d->key = (struct registry_key_row){
	        .tenant_id = d->tenant.id,
	        .alg = JWS_HS256,
	        .issuer = slice_str(DEV_ISSUER),
	        .kid = slice_str(DEV_KID),
	        .material = buf_slice(&d->secret),
	};
	return registry_key_check(&d->key, e);
}

static bool token_is_good(const struct dev *d, uint64_t now_s)
{
	static const struct token_settings settings = TOKEN_SETTINGS_DEFAULT;
	struct registry *r = registry_new(NULL, NULL);
	struct token_answer answer;
	struct claims claims;
	bool good;

	registry_apply(r, &d->tenant, 1, &d->key, 1);
	good = token_verify(r, &settings, buf_slice(&d->token), now_s, &claims, &answer) == 0 &&
	       claims.expires_s >= now_s + DEV_TOKEN_LEFT_S;
	claims_release(&claims);
	registry_free(r);
	return good;
}

static int mint(struct dev *d, uint64_t now_s, struct err *e)
{
	static const char *const all[] = {"#"};
	struct token_spec token = {
	        .kid = DEV_KID,
	        .issuer = DEV_ISSUER,
	        .subject = "dev",
	        .audience = "leat",
	        .issued_s = now_s,
	        .expires_s = now_s + DEV_TOKEN_S,
	        .publish = all,
	        .publish_count = 1,
	        .subscribe = all,
	        .subscribe_count = 1,
	};
	struct jws_key *key = jws_key_private(JWS_HS256, buf_slice(&d->secret), e);
	int rc;

	if (!key)
		return -1;
	buf_clear(&d->token);
	rc = token_mint(key, &token, &d->token, e);
	jws_key_free(key);
	return rc;
}

static int take_token(struct dev *d, struct err *e)
{
	uint64_t now_s = clock_wall_ms_now() / 1000;
	char path[DEV_PATH];

	path_in(d, "token", path);
	if (file_read(path, TOKEN_MAX_BYTES, &d->token, e) == 0 && token_is_good(d, now_s))
		return 0;
	if (mint(d, now_s, e) < 0)
		return -1;
	return file_write_private(path, buf_slice(&d->token), e);
}

static int prepare(struct dev *d, const char *dir, struct err *e)
{
	if (take_dir(d, dir, e) < 0 || make_parents(d, e) < 0 || ca_issue(d->dir, NULL, 0, e) < 0)
		return -1;
	return take_key(d, e) < 0 ? -1 : take_token(d, e);
}

/* ---- what to paste --------------------------------------------------------------------------- */

static void on_serving(void *arg, const struct node_ports *ports)
{
	static const char text[] =
	        "leat dev is ready: mqtts://localhost:%1$u, tenant " DEV_TENANT
	        ". Events live in memory only. Ctrl-C ends it.\n"
	        "\n"
	        "# receive, in one terminal\n"
	        "leat sub --url mqtts://localhost:%1$u --ca %3$s/ca.crt --token %3$s/token -t "
	        "'demo/#'\n"
	        "mosquitto_sub -V 5 -h localhost -p %1$u --cafile %3$s/ca.crt -u dev "
	        "-P \"$(cat %3$s/token)\" -q 1 -t 'demo/#' -v\n"
	        "\n"
	        "# send, in another\n"
	        "leat pub --url mqtts://localhost:%1$u --ca %3$s/ca.crt --token %3$s/token -t "
	        "demo/hello "
	        "-q 1 -m 'hello'\n"
	        "mosquitto_pub -V 5 -h localhost -p %1$u --cafile %3$s/ca.crt -u dev "
	        "-P \"$(cat %3$s/token)\" -q 1 -t demo/hello -m 'hello'\n"
	        "\n"
	        "# health and metrics\n"
	        "curl http://127.0.0.1:%2$u/readyz\n"
	        "curl http://127.0.0.1:%2$u/metrics\n";
	const struct dev *d = arg;

	printf(text, ports->mqtt, ports->admin, d->dir);
	fflush(stdout);
}

/* ---- running --------------------------------------------------------------------------------- */

static struct addr loopback(uint64_t port)
{
	struct addr a = {.host = "127.0.0.1", .port = (uint16_t)port};

	return a;
}

static int run(const struct dev_options *o, struct err *e)
{
	struct dev d = {0};
	char cert[DEV_PATH];
	char key[DEV_PATH];
	struct node_config c = {
	        .name = "dev",
	        .tenants = &d.tenant,
	        .tenant_count = 1,
	        .keys = &d.key,
	        .key_count = 1,
	        .memory_bytes = DEV_MEMORY_BYTES,
	        .cert_file = cert,
	        .key_file = key,
	        .mqtt = loopback(o->mqtt_port),
	        .admin = loopback(o->admin_port),
	        .on_serving = on_serving,
	        .arg = &d,
	};
	int rc;

	log_set_level((enum log_level)o->log_level);
	rc = prepare(&d, o->dir, e);
	path_in(&d, "server.crt", cert);
	path_in(&d, "server.key", key);
	if (rc == 0)
		rc = node_run(&c);
	buf_release(&d.secret);
	buf_release(&d.token);
	return rc;
}

int cmd_dev(int argc, char **argv)
{
	struct dev_options o = {0};
	struct err e;
	int rc;

	if (!options_take(&spec, argc, argv, &o, &rc))
		return rc;
	rc = run(&o, &e);
	if (rc < 0) {
		fprintf(stderr, "leat dev: %s\n", e.text);
		rc = 1;
	}
	options_release(&spec, &o);
	return rc;
}
