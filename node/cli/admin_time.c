#include "node/cli/admin_time.h"

#include "base/rfc3339.h"

#include <stdio.h>
#include <time.h>

bool admin_time(const char *text, char out[ADMIN_TIME_TEXT])
{
	uint64_t ms;
	time_t seconds;
	struct tm tm;
	size_t n;

	if (!rfc3339_parse(slice_str(text), &ms))
		return false;
	seconds = (time_t)(ms / 1000);
	gmtime_r(&seconds, &tm);
	n = strftime(out, ADMIN_TIME_TEXT, "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(out + n, ADMIN_TIME_TEXT - n, ".%03u", (unsigned)(ms % 1000));
	return true;
}
