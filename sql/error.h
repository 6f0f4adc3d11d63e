/* error: the table (errors.def) that maps server and client error numbers to outcomes, and server
 * messages made fit for a log. Pure functions, any thread. */
#ifndef LEAT_SQL_ERROR_H
#define LEAT_SQL_ERROR_H

#include "sql/outcome.h"

#include <stdbool.h>
#include <stddef.h>

struct sql_verdict {
	enum sql_outcome outcome;
	bool drop; /* the connection is of no more use: close it */
	bool show; /* the server's message names no data values and may be logged whole */
};

/* What error number `no` means. `committing`: COMMIT, or text that contains one, was being sent. */
struct sql_verdict sql_error_verdict(unsigned no, bool committing);

/* Copy a server message for a log line: what stands between quotes becomes "?". */
void sql_error_redact(char *out, size_t out_size, const char *message);

#endif
