#include "node/cli/progress.h"

#include "base/mem.h"
#include "node/net/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PROGRESS_MS = 500 };

struct progress {
	struct loop_timer *timer;
	progress_fn *say;
	void *arg;
};

static void show(void *arg)
{
	struct progress *p = arg;
	char line[160];

	p->say(p->arg, line, sizeof line);
	fprintf(stderr, "\r%s\033[K", line);
}

struct progress *progress_new(struct loop *l, progress_fn *say, void *arg)
{
	struct progress *p;

	if (!isatty(STDERR_FILENO))
		return NULL;
	p = xcalloc(1, sizeof *p);
	p->say = say;
	p->arg = arg;
	p->timer = loop_every(l, PROGRESS_MS, show, p);
	return p;
}

void progress_clear(struct progress *p)
{
	if (p)
		fputs("\r\033[K", stderr);
}

void progress_free(struct progress *p)
{
	if (!p)
		return;
	progress_clear(p);
	loop_timer_free(p->timer);
	free(p);
}
