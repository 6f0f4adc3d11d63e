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

enum { NAME_BYTES = 64, PASSED_MAX = 1024 };

static char chosen[NAME_BYTES]; /* "" = none */
static int chosen_signal;
static atomic_long left; /* passes until it happens */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local const char *last; /* statement of this thread */

static pthread_mutex_t mtx = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static char passed[PASSED_MAX][NAME_BYTES]; /* guarded by mtx, as n_passed */
static int n_passed;

static void read_choice(void)
{
	const char *file = getenv("LEAT_POINT_LOG");
	const char *text = getenv("LEAT_POINT");
	const char *count = text ? strchr(text, ':') : NULL;
	const char *what = count ? strchr(count + 1, ':') : NULL;

	if (file)
		log_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (!what || (size_t)(count - text) >= sizeof chosen)
		return;
	atomic_store(&left, strtol(count + 1, NULL, 10));
	chosen_signal = strcmp(what + 1, "stop") == 0 ? SIGSTOP : SIGKILL;
	memcpy(chosen, text, (size_t)(count - text));
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

void point_pass(const char *name)
{
	pthread_once(&once, read_choice);
	if (log_fd >= 0)
		note(name);
	if (strcmp(chosen, name) == 0 && atomic_fetch_sub(&left, 1) == 1)
		kill(getpid(), chosen_signal);
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
