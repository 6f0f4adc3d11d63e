/* issuer_store: what the leader reads and writes of the table issuer: whose keys are due to be
 * fetched, and what came of it. Jobs on the admin lane. A result is stored only if nobody fetched
 * or changed the issuer meanwhile: no role has to be checked for that. Loop thread only. */
#ifndef LEAT_TENANCY_ISSUER_STORE_H
#define LEAT_TENANCY_ISSUER_STORE_H

#include "base/slice.h"
#include "sql/sql.h"

#include <stddef.h>
#include <stdint.h>

struct issuer_due;

const char *issuer_due_name(const struct issuer_due *d);
const char *issuer_due_url(const struct issuer_due *d);
uint32_t issuer_due_tenant(const struct issuer_due *d); /* 0 = it speaks for any */
void issuer_due_free(struct issuer_due *d);             /* NULL does nothing */

/* done gets issuers that are due, in the order in which to fetch them: those being fetched too,
 * who are due until something was put, and whoever comes next then. Each is done's to keep, the
 * array is not. n is 0 when there are none or they could not be read. -1: the lane is full, done
 * will not be called. */
int issuer_store_due(struct sql *s, void (*done)(void *arg, struct issuer_due **take, size_t n),
                     void *arg);

/* What was fetched for it, or why nothing was (error not NULL). A body that is no JWKS with a
 * usable key counts as an error: the last good keys stay. Takes d, copies the rest; done, always
 * called unless -1, when it is stored or given up. */
int issuer_store_put(struct sql *s, struct issuer_due *d, struct slice body, const char *error,
                     void (*done)(void *arg), void *arg);

#endif
