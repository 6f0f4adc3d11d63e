#include "node/net/spread.h"

#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>

struct spread {
	atomic_bool used;
	atomic_uint slots[SPREAD_MAX]; /* connections + 1; 0 = not serving */
};

struct spread *spread_new(void)
{
	struct spread *s =
	        mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED)
		fatal("no shared memory for the workers");
	return s; /* zeroed by the kernel */
}

void spread_free(struct spread *s)
{
	if (s)
		munmap(s, sizeof *s);
}

static void store(struct spread *s, unsigned slot, unsigned value)
{
	atomic_store_explicit(&s->slots[slot], value, memory_order_relaxed);
}

void spread_set(struct spread *s, unsigned slot, size_t connections)
{
	atomic_store_explicit(&s->used, true, memory_order_relaxed);
	store(s, slot, connections < UINT32_MAX ? (unsigned)connections + 1 : UINT32_MAX);
}

void spread_leave(struct spread *s, unsigned slot)
{
	store(s, slot, 0);
}

bool spread_is_ahead(const struct spread *s, unsigned slot)
{
	unsigned mine = atomic_load_explicit(&s->slots[slot], memory_order_relaxed);

	for (unsigned i = 0; i < SPREAD_MAX; i++) {
		unsigned other = atomic_load_explicit(&s->slots[i], memory_order_relaxed);

		if (other && other < mine)
			return true;
	}
	return false;
}

bool spread_was_used(const struct spread *s)
{
	return atomic_load_explicit(&s->used, memory_order_relaxed);
}
