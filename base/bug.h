/* bug: seeded bugs. They prove that the fault tests notice what they are there for: a build with
 * -DLEAT_SEEDED_BUGS (make sim-bugs) has the bug named by the environment's LEAT_BUG, and every
 * other build has BUG() as the constant false. Any thread. */
#ifndef LEAT_BASE_BUG_H
#define LEAT_BASE_BUG_H

#include <stdbool.h>

#ifdef LEAT_SEEDED_BUGS
#include <stdlib.h>
#include <string.h>

static inline bool bug_seeded(const char *name)
{
	const char *chosen = getenv("LEAT_BUG");

	return chosen && strcmp(chosen, name) == 0;
}
#define BUG(name) bug_seeded(name)
#else
#define BUG(name) false
#endif

#endif
