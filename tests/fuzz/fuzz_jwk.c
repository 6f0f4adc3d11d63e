/* JSON Web Keys: whatever is taken for one is a public key or a secret of its algorithm. */
#include "tenancy/jwk.h"

#include "base/log.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice text = slice(data, size);
	struct err e = {0};
	struct jwk k;

	log_set_level(LOG_ERROR);
	if (jwk_parse(text, &k, &e) < 0) {
		if (!e.text[0] || k.json)
			abort();
		return 0;
	}
	if (!jwk_is(text))
		abort();
	jwk_release(&k);
	for (int alg = 0; alg < JWS_ALG_COUNT; alg++) {
		struct jws_key *key = jws_key_public((enum jws_alg)alg, text, &e);

		if (!key)
			continue;
		if ((int)jws_key_alg(key) != alg)
			abort();
		jws_verify(key, slice("a.b", 3), text);
		jws_key_free(key);
	}
	return 0;
}
