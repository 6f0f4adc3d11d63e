/* hash: XXH3 64-bit. hash_stable() never changes and decides which partition a key belongs to;
 * hash_seeded() has a random seed per process, for tables whose keys a client chooses. Any thread.
 */
#ifndef LEAT_BASE_HASH_H
#define LEAT_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_stable(const void *p, size_t n);
uint64_t hash_seeded(const void *p, size_t n);

#endif
