/* id128: a random 128-bit id (node sessions, client ids made by us). Plain data. Any thread. */
#ifndef LEAT_BASE_ID128_H
#define LEAT_BASE_ID128_H

#include <stdbool.h>
#include <stdint.h>

enum { ID128_HEX = 33 }; /* bytes for the hex text and its NUL */

struct id128 {
	uint8_t b[16];
};

struct id128 id128_random(void);
bool id128_eq(const struct id128 *a, const struct id128 *b);
bool id128_is_zero(const struct id128 *a); /* zero = none */
void id128_hex(const struct id128 *id, char out[ID128_HEX]);

#endif
