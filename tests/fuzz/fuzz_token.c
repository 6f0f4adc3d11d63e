/* Tokens: the input as it is; and, signed with a good key, the input as header NEWLINE payload, so
 * that the claims behind the signature are reached too. */
#include "tenancy/token.h"

#include "base/log.h"
#include "tenancy/token_mint.h"
#include "tests/unit/tenancy/keys.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct registry *registry;
static struct jws_key *signer;

static void init(void)
{
	struct tenant t = {.id = 1, .state = TENANT_ACTIVE, .name = "t"};
	struct registry_key_row k = {.tenant_id = 1,
	                             .alg = JWS_HS256,
	                             .issuer = slice_str("i"),
	                             .kid = slice_str("k"),
	                             .material = slice_str(key_secret)};

	log_set_level(LOG_ERROR);
	registry = registry_new(NULL, NULL);
	registry_apply(registry, &t, 1, &k, 1);
	signer = jws_key_private(JWS_HS256, slice_str(key_secret), NULL);
}

static void try_token(struct slice text)
{
	struct token_answer a;
	struct claims c;

	if (token_verify(registry, &TOKEN_SETTINGS_DEFAULT, text, 1800000000, &c, &a) < 0) {
		if (a.why == TOKEN_OK || !a.text[0] || c.acl)
			abort();
		return;
	}
	if (c.tenant->id != 1 || c.subject.n == 0 || c.expires_s <= 1800000000)
		abort();
	if (acl_bind(c.acl, c.subject, slice("c/#", 3), NULL) == 0) {
		acl_may_publish(c.acl, slice("a/b", 3));
		acl_may_subscribe(c.acl, slice("a/#", 3));
	}
	claims_release(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *cut = size ? memchr(data, '\n', size) : NULL;
	struct buf token = {0};

	if (!registry)
		init();
	try_token(slice(data, size));
	if (!cut)
		return 0;
	if (token_sign(signer, slice(data, (size_t)(cut - data)),
	               slice(cut + 1, size - (size_t)(cut - data) - 1), &token, NULL) == 0)
		try_token(buf_slice(&token));
	buf_release(&token);
	return 0;
}
