/* revocation: the tokens that are refused although they verify: a subject's, one by its id, or all
 * of a tenant, up to a moment of issue. A set is filled and sealed by one thread (a worker), then
 * only read; looking a token up takes three probes whatever the size. About 150 bytes a row. */
#ifndef LEAT_TENANCY_REVOCATION_H
#define LEAT_TENANCY_REVOCATION_H

#include "base/slice.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The values are those of the column. */
enum revocation_kind {
	REVOCATION_SUBJECT = 1,
	REVOCATION_TOKEN_ID = 2,
	REVOCATION_TENANT = 3, /* its name is empty */
};

enum { REVOCATION_NAME_MAX = 255 }; /* bytes */

struct revocation_row {
	struct slice name; /* borrowed */
	uint64_t before_s; /* seconds since 1970: tokens issued earlier, or they do not say when */
	uint32_t tenant_id;
	enum revocation_kind kind;
};

struct revocation_set;

struct revocation_set *revocation_set_new(void);
void revocation_set_free(struct revocation_set *s); /* NULL does nothing */

/* Until it is sealed; false: the name is too long, or the kind is none. Names are copied. */
bool revocation_set_add(struct revocation_set *s, const struct revocation_row *row);
void revocation_set_seal(struct revocation_set *s);
size_t revocation_set_count(const struct revocation_set *s);

struct revocation_token {
	uint32_t tenant_id;
	uint64_t issued_s; /* 0 = it does not say: any row of its names applies */
	struct slice subject;
	struct slice token_id; /* empty = it has none */
};

/* Sealed; an s of NULL has no rows. */
bool revocation_set_has(const struct revocation_set *s, const struct revocation_token *t);

#endif
