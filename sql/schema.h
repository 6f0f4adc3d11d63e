/* schema: the schema steps this binary was built with. Constant data, any thread. */
#ifndef LEAT_SQL_SCHEMA_H
#define LEAT_SQL_SCHEMA_H

#include "base/slice.h"

struct schema_step {
	unsigned version; /* 1, 2, 3 … without holes */
	const char *name;
	struct slice text;
};

unsigned schema_latest(void); /* number of steps, and version of the last */
struct schema_step schema_step(unsigned version);

#endif
