#include "sql/schema.h"

#include <assert.h>

/* The files themselves, so that what is run is what is reviewed. The Makefile knows the dependency.
 */
#define SCHEMA_STEP(version, name)                                                       \
	__asm__(".section .rodata\n"                                                     \
	        ".global schema_text_" #version "\n"                                     \
	        "schema_text_" #version ":\n"                                            \
	        ".incbin \"sql/schema/" #version "_" #name ".sql\"\n"                    \
	        ".global schema_end_" #version "\n"                                      \
	        "schema_end_" #version ":\n"                                             \
	        ".byte 0\n"                                                              \
	        ".previous\n");                                                          \
	extern const char schema_text_##version[] __attribute__((visibility("hidden"))); \
	extern const char schema_end_##version[] __attribute__((visibility("hidden")));
#include "sql/schema/steps.def"
#undef SCHEMA_STEP

static const struct {
	const char *name, *text, *end;
} steps[] = {
#define SCHEMA_STEP(version, name) {#name, schema_text_##version, schema_end_##version},
#include "sql/schema/steps.def"
#undef SCHEMA_STEP
};

unsigned schema_latest(void)
{
	return sizeof steps / sizeof steps[0];
}

struct schema_step schema_step(unsigned version)
{
	assert(version >= 1 && version <= schema_latest());
	unsigned i = version - 1;

	return (struct schema_step){
	        .version = version,
	        .name = steps[i].name,
	        .text = slice(steps[i].text, (size_t)(steps[i].end - steps[i].text)),
	};
}
