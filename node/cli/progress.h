/* progress: one line on stderr that says how far long work has got, rewritten twice a second, when
 * stderr is a terminal. Loop thread only; owned by the command. */
#ifndef LEAT_NODE_PROGRESS_H
#define LEAT_NODE_PROGRESS_H

#include <stddef.h>

struct loop;
struct progress;

typedef void progress_fn(void *arg, char *out, size_t size); /* write the line's text */

struct progress *progress_new(struct loop *l, progress_fn *say, void *arg); /* NULL = no terminal */
void progress_clear(struct progress *p); /* wipe the line, so that something else can be said */
void progress_free(struct progress *p);  /* wipes the line too */

#endif
