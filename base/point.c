#include "base/point.h"

#ifdef LEAT_SEEDED_BUGS
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME_BYTES = 64, PASSED_MAX = 1024, CHOSEN_MAX = 16 };

/* A place where something is to happen. */
struct chosen {
	char name[NAME_BYTES];
	int signal;
	atomic_long left; /* passes until it does */
};

static struct chosen chosen[CHOSEN_MAX];
static int n_chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local const char *last; /* statement of this thread */

static pthread_mutex_t mtx = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static char passed[PASSED_MAX][NAME_BYTES]; /* guarded by mtx, as n_passed */
static int n_passed;

/* NAME:N:WHAT, up to a comma. */
static void read_one(const char *text)
{
	struct chosen *c = &chosen[n_chosen];
	const char *count = strchr(text, ':');
	const char *what = count ? strchr(count + 1, ':') : NULL;

	if (!what || (size_t)(count - text) >= sizeof c->name)
		return;
	atomic_store(&c->left, strtol(count + 1, NULL, 10));
	c->signal = strncmp(what + 1, "stop", 4) == 0 ? SIGSTOP : SIGKILL;
	memcpy(c->name, text, (size_t)(count - text));
	n_chosen++;
}

static void read_choice(void)
{
	const char *file = getenv("LEAT_POINT_LOG");
	const char *text = getenv("LEAT_POINT");

	if (file)
		log_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	while (text && n_chosen < CHOSEN_MAX) {
		read_one(text);
		text = strchr(text, ',');
		text += text != NULL;
	}
}

static bool is_new(const char *name)
{
	for (int i = 0; i < n_passed; i++)
		if (strcmp(passed[i], name) == 0)
			return false;
	return n_passed < PASSED_MAX;
}

static void note(const char *name)
{
	pthread_mutex_lock(&mtx);
	if (is_new(name)) {
		snprintf(passed[n_passed++], NAME_BYTES, "%s", name);
		dprintf(log_fd, "%s\n", name);
	}
	pthread_mutex_unlock(&mtx);
}

static void meet(const char *name)
{
	for (int i = 0; i < n_chosen; i++) {
		struct chosen *c = &chosen[i];

		if (strcmp(c->name, name) != 0 || atomic_fetch_sub(&c->left, 1) != 1)
			continue;
		if (log_fd >= 0)
			dprintf(log_fd, "met %d %s\n", (int)getpid(), name);
		kill(getpid(), c->signal);
	}
}

void point_pass(const char *name)
{
	pthread_once(&once, read_choice);
	if (log_fd >= 0)
		note(name);
	meet(name);
}

static void pass_of(const char *when, const char *statement)
{
	char name[NAME_BYTES];

	snprintf(name, sizeof name, "%s %s", when, statement);
	point_pass(name);
}

void point_statement(const char *name)
{
	last = name;
	pass_of("before", name);
}

void point_commit(const char *when)
{
	pass_of(when, last ? last : "nothing");
}
#else
typedef int point_is_nothing; /* a translation unit holds something */
#endif
