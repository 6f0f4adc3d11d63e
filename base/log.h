/* log: one logfmt line per event on stderr: ts=… level=… module=… then the caller's key=value text.
 * Any thread; a line is written with one write(2). Never log a payload, a token or a password;
 * text that came from a client goes through log_quote(). */
#ifndef LEAT_BASE_LOG_H
#define LEAT_BASE_LOG_H

#include <stddef.h>

enum log_level {
	LOG_DEBUG,
	LOG_INFO,
	LOG_WARN,
	LOG_ERROR,
};

void log_set_level(enum log_level min);
void log_set_origin(
        const char *text); /* "worker=2": in every line from now on; before any thread */
int log_level_parse(const char *name, enum log_level *out); /* 0, or -1 for an unknown name */
enum log_level log_get_level(void);

void log_line(enum log_level level, const char *module, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

#define log_debug(...)                                    \
	do {                                              \
		if (log_get_level() == LOG_DEBUG)         \
			log_line(LOG_DEBUG, __VA_ARGS__); \
	} while (0)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

/* Bytes as a quoted logfmt value: controls, quotes and non-ASCII escaped, cut at 120 bytes.
 * The text lives in a thread-local ring of 8 and is good until 8 more calls on this thread. */
const char *log_quote(const void *p, size_t n);
const char *log_quote_str(const char *s);

#endif
