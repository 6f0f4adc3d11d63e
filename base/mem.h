/* mem: allocation that cannot fail, for small fixed sizes. Out of memory ends the process.
 * A size that comes from a client is checked against its limit before it gets here. Any thread. */
#ifndef LEAT_BASE_MEM_H
#define LEAT_BASE_MEM_H

#include <stddef.h>

void *xmalloc(size_t n);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n); /* exactly n bytes copied, NUL added */
void *xmemdup(const void *p, size_t n);

/* The impossible happened: log it and abort. */
_Noreturn void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
