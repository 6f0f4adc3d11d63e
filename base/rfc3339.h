/* rfc3339: a time as people and clients write it, 2026-03-01T12:00:00Z. Pure, any thread. */
#ifndef LEAT_BASE_RFC3339_H
#define LEAT_BASE_RFC3339_H

#include "base/slice.h"

#include <stdbool.h>
#include <stdint.h>

/* Milliseconds since 1970, UTC; finer fractions are cut off. False when it is no such time. */
bool rfc3339_parse(struct slice text, uint64_t *ms);

enum { RFC3339_TEXT = 32 };
const char *rfc3339_text(uint64_t ms, char out[RFC3339_TEXT]); /* to the millisecond; returns out */

#endif
