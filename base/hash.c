#define XXH_INLINE_ALL
#include "base/hash.h"

#include <pthread.h>
#include <sys/random.h>
#include <xxhash.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t seed;

static void seed_init(void)
{
	if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
		seed = 0x9e3779b97f4a7c15U; /* only weaker against chosen keys, never wrong */
}

uint64_t hash_stable(const void *p, size_t n)
{
	return XXH3_64bits(p, n);
}

uint64_t hash_seeded(const void *p, size_t n)
{
	pthread_once(&once, seed_init);
	return XXH3_64bits_withSeed(p, n, seed);
}
