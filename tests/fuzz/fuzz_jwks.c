/* JSON Web Key Sets: what is taken has keys, each with a kid of its own and for a public algorithm.
 */
#include "tenancy/jwks.h"

#include "base/log.h"
#include "tenancy/registry.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = {0};
	struct jwks *s;

	log_set_level(LOG_ERROR);
	s = jwks_parse(slice(data, size), &e);
	if (!s) {
		if (!e.text[0])
			abort();
		return 0;
	}
	if (!jwks_count(s) || jwks_count(s) > JWKS_MAX_KEYS)
		abort();
	for (size_t i = 0; i < jwks_count(s); i++) {
		struct jwks_key k = jwks_at(s, i);

		if (registry_kid_check(k.kid, &e) < 0 || jws_key_alg(k.key) == JWS_HS256)
			abort();
		for (size_t j = 0; j < i; j++) {
			if (slice_eq(jwks_at(s, j).kid, k.kid))
				abort();
		}
	}
	jwks_free(s);
	return 0;
}
