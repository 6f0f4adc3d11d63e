#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 1024, ORIGIN_MAX_BYTES = 32, QUOTE_MAX_BYTES = 120, QUOTE_RING = 8 };

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static atomic_int min_level = LOG_INFO;
static char origin[ORIGIN_MAX_BYTES];

void log_set_level(enum log_level min)
{
	atomic_store_explicit(&min_level, min, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&min_level, memory_order_relaxed);
}

void log_set_origin(const char *text)
{
	snprintf(origin, sizeof origin, "%.*s ", ORIGIN_MAX_BYTES - 2, text);
}

int log_level_parse(const char *name, enum log_level *out)
{
	for (int i = 0; i <= LOG_ERROR; i++) {
		if (strcmp(name, level_names[i]) == 0) {
			*out = (enum log_level)i;
			return 0;
		}
	}
	return -1;
}

void log_line(enum log_level level, const char *module, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	struct timespec ts;
	struct tm tm;
	va_list ap;
	size_t n;
	int rc;

	if (level < log_get_level())
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(line, sizeof line, "ts=%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ level=%s module=%s %s",
	                      ts.tv_nsec / 1000000, level_names[level], module, origin);
	va_start(ap, fmt);
	rc = vsnprintf(line + n, sizeof line - n, fmt, ap);
	va_end(ap);
	if (rc > 0)
		n += (size_t)rc;
	if (n > sizeof line - 2)
		n = sizeof line - 2;
	line[n++] = '\n';
	/* a log line that cannot be written has nowhere else to go */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}

const char *log_quote(const void *p, size_t n)
{
	static _Thread_local char ring[QUOTE_RING][QUOTE_MAX_BYTES * 4 + 8];
	static _Thread_local unsigned turn;
	const unsigned char *s = p;
	char *out = ring[turn++ % QUOTE_RING];
	char *o = out;
	size_t take = n < QUOTE_MAX_BYTES ? n : QUOTE_MAX_BYTES;

	*o++ = '"';
	for (size_t i = 0; i < take; i++) {
		if (s[i] == '"' || s[i] == '\\') {
			*o++ = '\\';
			*o++ = (char)s[i];
		} else if (s[i] < 0x20 || s[i] >= 0x7f) {
			o += sprintf(o, "\\x%02x", s[i]);
		} else {
			*o++ = (char)s[i];
		}
	}
	if (take < n) {
		memcpy(o, "...", 3);
		o += 3;
	}
	*o++ = '"';
	*o = '\0';
	return out;
}

const char *log_quote_str(const char *s)
{
	return log_quote(s, strlen(s));
}
