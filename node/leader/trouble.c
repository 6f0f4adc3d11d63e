#include "node/leader/trouble.h"

#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdbool.h>

static void say(struct trouble *t, enum sql_outcome outcome, const char *why)
{
	t->said_ms = clock_now_ms();
	log_warn(t->module, "failed=%" PRIu64 " for_ms=%" PRIu64 " outcome=%s %s%s%s", t->failed,
	         t->said_ms - t->since_ms, sql_outcome_name(outcome), t->what, why[0] ? ": " : "",
	         why);
}

static void end(struct trouble *t)
{
	if (t->said_ms)
		log_info(t->module,
		         "failed=%" PRIu64 " for_ms=%" PRIu64 " well again: no more of: %s",
		         t->failed, clock_now_ms() - t->since_ms, t->what);
	t->since_ms = t->said_ms = t->failed = 0;
}

void trouble_note(struct trouble *t, enum sql_outcome outcome, const char *why)
{
	uint64_t now = clock_now_ms();
	bool due;

	if (outcome == SQL_OK || outcome == SQL_LOST) {
		end(t);
		return;
	}
	t->total++;
	if (!t->failed++)
		t->since_ms = now;
	due = t->said_ms ? now - t->said_ms >= TROUBLE_AGAIN_MS
	                 : now - t->since_ms >= TROUBLE_AFTER_MS;
	if (due || (outcome == SQL_FATAL && !t->said_ms))
		say(t, outcome, why);
}
