#include "node/cli/command.h"

#include "base/clock.h"
#include "node/cli/key_file.h"
#include "node/cli/options.h"
#include "tenancy/token_mint.h"

#include <stdio.h>
#include <stdlib.h>

struct token_options {
	const char *key, *kid, *issuer, *subject, *audience, *alg;
	struct option_list publish, subscribe, limits;
	uint64_t ttl_ms;
};

#define FIELD(f) offsetof(struct token_options, f)

static const struct option rows[] = {
        {"key", 0, OPTION_TEXT, FIELD(key), .arg = "FILE",
         .help = "private key (PEM), or the raw secret of an HS256 key", .flags = OPTION_REQUIRED},
        {"kid", 0, OPTION_TEXT, FIELD(kid), .arg = "KID",
         .help = "the name the key has at the server", .flags = OPTION_REQUIRED},
        {"issuer", 0, OPTION_TEXT, FIELD(issuer), .arg = "ISSUER",
         .help = "iss claim: the issuer the key was added with", .flags = OPTION_REQUIRED},
        {"subject", 0, OPTION_TEXT, FIELD(subject), .arg = "SUBJECT",
         .help = "sub claim: who the bearer is", .flags = OPTION_REQUIRED},
        {"publish", 0, OPTION_LIST, FIELD(publish), .arg = "FILTER..",
         .help = "topics the bearer may publish to"},
        {"subscribe", 0, OPTION_LIST, FIELD(subscribe), .arg = "FILTER..",
         .help = "topics the bearer may subscribe to"},
        {"limits", 0, OPTION_LIST, FIELD(limits), .arg = "NAME=N..",
         .help = "less than the tenant may: connections, events_per_s, bytes_per_s, event_bytes, "
                 "subscriptions"},
        {"ttl", 0, OPTION_DURATION, FIELD(ttl_ms), .arg = "TIME", .help = "how long it is good for",
         .fallback = "1h", .min = 1000},
        {"audience", 0, OPTION_TEXT, FIELD(audience), .arg = "AUDIENCE", .help = "aud claim",
         .fallback = "leat"},
        {"alg", 0, OPTION_TEXT, FIELD(alg), .arg = "ALG",
         .help = "HS256, RS256, PS256, ES256 or EdDSA; else what the key is for"},
};
static const struct options spec = {"token", "make a token and print it", OPTIONS_ROWS(rows)};

static int mint(const struct token_options *o, const struct jws_key *key, struct buf *out,
                struct err *e)
{
	uint64_t now_s = clock_wall_ms_now() / 1000;
	struct token_spec t = {
	        .kid = o->kid,
	        .issuer = o->issuer,
	        .subject = o->subject,
	        .audience = o->audience,
	        .issued_s = now_s,
	        .expires_s = now_s + o->ttl_ms / 1000,
	        .publish = o->publish.v,
	        .publish_count = o->publish.n,
	        .subscribe = o->subscribe.v,
	        .subscribe_count = o->subscribe.n,
	        .limits = o->limits.v,
	        .limits_count = o->limits.n,
	};

	return token_mint(key, &t, out, e);
}

static int make_token(const struct token_options *o, struct buf *out, struct err *e)
{
	struct buf material = {0};
	struct jws_key *key = NULL;
	enum jws_alg alg;
	int rc = -1;

	if (key_file_read(o->key, &material, e) == 0 &&
	    key_file_alg(o->alg, buf_slice(&material), &alg, e) == 0 &&
	    (key = jws_key_private(alg, buf_slice(&material), e)) != NULL)
		rc = mint(o, key, out, e);
	jws_key_free(key);
	key_file_release(&material);
	return rc;
}

int cmd_token(int argc, char **argv)
{
	struct token_options o = {0};
	struct buf token = {0};
	struct err e;
	int rc;

	if (!options_take(&spec, argc, argv, &o, &rc))
		return rc;
	if (make_token(&o, &token, &e) < 0) {
		fprintf(stderr, "token: %s\n", e.text);
		rc = EXIT_FAILURE;
	} else {
		if (o.publish.n + o.subscribe.n == 0)
			fprintf(stderr,
			        "token: without --publish and --subscribe it allows nothing\n");
		printf("%.*s\n", (int)token.len, token.data);
		rc = EXIT_SUCCESS;
	}
	buf_release(&token);
	options_release(&spec, &o);
	return rc;
}
