/* Any text: parses or is refused, and what was parsed can be described and copied. */
#include "sql/dsn.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), out[DSN_DESCRIBE_MAX];
	struct dsn d, copy;
	struct err e;

	memcpy(text, data, size);
	text[size] = '\0';
	if (dsn_parse(&d, text, &e) == 0) {
		dsn_copy(&copy, &d);
		dsn_describe(&copy, out);
		if (!*d.user || !*d.schema || d.host_count == 0 || d.hosts[0].port == 0)
			abort();
		dsn_release(&copy);
		dsn_release(&d);
	}
	free(text);
	return 0;
}
