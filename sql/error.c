#include "sql/error.h"

#include <string.h>

static const struct row {
	unsigned no;
	enum sql_outcome statement, commit;
	bool drop, show;
} table[] = {
#define SQL_ERROR(no, statement, commit, drop, show, what) \
	{no, SQL_##statement, SQL_##commit, drop, show},
#include "sql/errors.def"
#undef SQL_ERROR
};

/* Errors of the client library, not of the server: nobody knows what the server did. */
static bool is_client_error(unsigned no)
{
	return (no >= 2000 && no < 3000) || (no >= 5000 && no < 6000);
}

static struct row find(unsigned no)
{
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (table[i].no == no)
			return table[i];
	if (is_client_error(no))
		return (struct row){no, SQL_FATAL, SQL_UNKNOWN, true, true};
	return (struct row){no, SQL_FATAL, SQL_FATAL, false, false};
}

struct sql_verdict sql_error_verdict(unsigned no, bool committing)
{
	struct row r = find(no);
	enum sql_outcome o = committing ? r.commit : r.statement;

	return (struct sql_verdict){o, r.drop || o == SQL_UNKNOWN, r.show};
}

void sql_error_redact(char *out, size_t out_size, const char *message)
{
	size_t n = 0;
	char quote = 0;

	for (const char *p = message; *p && n + 4 < out_size; p++) {
		if (quote) {
			if (*p != quote)
				continue;
			quote = 0;
			out[n++] = '?';
		} else if (*p == '\'' || *p == '"') {
			quote = *p;
		}
		out[n++] = *p;
	}
	/* A value that holds a quote, or one cut off by the server, ends here: the rest stays
	 * hidden. */
	if (quote)
		out[n++] = '?';
	out[n] = '\0';
}
