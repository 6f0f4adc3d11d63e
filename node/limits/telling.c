/* What a tenant is told: of each limit it reached, as an event of its own at $leat/limits; and what
 * it uses, to connections that ask for $leat/usage. */
#include "node/limits/account.h"

#include "base/clock.h"
#include "base/rfc3339.h"

#include <inttypes.h>
#include <string.h>

enum {
	EPISODE_MS = 15000, /* after so long without one a breach is another one */
	SUBJECTS_MAX = 20,  /* of a tenant's subjects so many breaches are told in LIMITS_TELL_MS */
};

static const char *const advice_of[] = {
#define LIMIT(NAME, name, column, narrowed, advice) advice,
#include "node/limits/limits.def"
#undef LIMIT
};

static void put_text(struct buf *out, const char *key, const char *text)
{
	buf_printf(out, ",\"%s\":", key);
	buf_json_string(out, slice_str(text));
}

static void put_breach(const struct limits *l, const struct account *a, enum limit which,
                       uint64_t used, uint64_t since_ms, struct buf *out)
{
	char since[RFC3339_TEXT];

	buf_printf(out, "{\"limit\":\"%s\",\"allowed\":%" PRIu64 ",\"used\":%" PRIu64,
	           limit_name(which), account_allowed(a, which), used);
	put_text(out, "node", l->set.node);
	put_text(out, "since", rfc3339_text(since_ms, since));
	if (a->subject && a->name)
		put_text(out, "subject", a->name);
	put_text(out, "what_to_do", advice_of[which]);
	buf_u8(out, '}');
}

/* Of a tenant's subjects, of whom there may be many, not all are told of. */
static bool is_turn_of_subject(struct account *whole, uint64_t now)
{
	if (now - whole->subjects_since_ms >= LIMITS_TELL_MS) {
		whole->subjects_since_ms = now;
		whole->subjects_told = 0;
	}
	return whole->subjects_told++ < SUBJECTS_MAX;
}

/* Each subject's limits are told beside the tenant's own. Where the tenant is suspended nobody is
 * there to hear it, and while it is moved its journal is to stay as it is. */
static bool may_tell(const struct account *a, enum limit which, uint64_t now)
{
	const struct account_breach *b = &a->breach[which];

	return a->tenant->state == TENANT_ACTIVE &&
	       (!b->told_ms || now - b->told_ms >= LIMITS_TELL_MS) &&
	       (!a->whole || is_turn_of_subject(a->whole, now));
}

void account_breached(struct limits *l, struct account *a, enum limit which, uint64_t used)
{
	struct account_breach *b = &a->breach[which];
	uint64_t now = clock_now_ms();
	struct buf json = {0};

	if (!b->last_ms || now - b->last_ms >= EPISODE_MS)
		b->since_ms = clock_wall_ms();
	b->last_ms = now;
	if (!may_tell(a, which, now))
		return;
	b->told_ms = now;
	a->told |= 1u << which;
	account_touch(l, a);
	put_breach(l, a, which, used, b->since_ms, &json);
	l->stats.told++;
	l->set.publish(l->set.arg, a->tenant, "$leat/limits", buf_slice(&json));
	buf_release(&json);
}

bool account_remembers(const struct account *a)
{
	uint64_t now = clock_now_ms();

	for (int i = 0; i < LIMIT_COUNT; i++) {
		if (a->breach[i].told_ms && now - a->breach[i].told_ms < LIMITS_TELL_MS)
			return true;
	}
	return false;
}

/* ---- usage ----------------------------------------------------------------------------------- */

static bool is_counted(enum limit which)
{
	return which == LIMIT_CONNECTIONS || which == LIMIT_SUBSCRIPTIONS ||
	       which == LIMIT_EVENTS_PER_S || which == LIMIT_BYTES_PER_S ||
	       which == LIMIT_STORED_BYTES || which == LIMIT_SCHEDULED ||
	       which == LIMIT_DEAD_LETTERS;
}

static void put_limits(const struct account *a, struct buf *out)
{
	for (int i = 0; i < LIMIT_COUNT; i++) {
		enum limit which = (enum limit)i;
		uint64_t allowed = account_allowed(a, which);

		if (a->subject && !allowed)
			continue;
		buf_printf(out, "%s\"%s\":{\"allowed\":", out->data[out->len - 1] == '{' ? "" : ",",
		           limit_name(which));
		if (allowed)
			buf_u64_dec(out, allowed);
		else
			buf_append_str(out, "null");
		if (is_counted(which) && stock_is_known(a, which))
			buf_printf(out, ",\"used\":%" PRIu64, account_used(a, which));
		else if (is_counted(which))
			buf_append_str(out, ",\"used\":null");
		buf_u8(out, '}');
	}
}

static void tell(const struct limits *l, const struct limits_guest *g)
{
	char at[RFC3339_TEXT];
	struct buf json = {0};

	buf_append_str(&json, "{\"limits\":{");
	put_limits(g->tenant, &json);
	buf_u8(&json, '}');
	if (g->subject) {
		buf_append_str(&json, ",\"token\":{");
		put_limits(g->subject, &json);
		buf_u8(&json, '}');
	}
	put_text(&json, "node", l->set.node);
	put_text(&json, "at", rfc3339_text(clock_wall_ms(), at));
	buf_u8(&json, '}');
	l->set.on_usage(l->set.arg, g->conn_id, buf_slice(&json));
	buf_release(&json);
}

void telling_usage(struct limits *l, struct account *a)
{
	struct limits_guest *g;

	TAILQ_FOREACH (g, &a->watchers, watch_link) {
		g->untold = false;
		tell(l, g);
	}
	if (!TAILQ_EMPTY(&a->watchers))
		stock_want(l, a);
}

void telling_untold(struct limits *l, struct account *a)
{
	struct limits_guest *g;

	TAILQ_FOREACH (g, &a->watchers, watch_link) {
		if (!g->untold)
			continue;
		g->untold = false;
		tell(l, g);
	}
}

void limits_watch(struct limits *l, struct limits_guest *g, bool yes)
{
	if (!g->tenant)
		return;
	if (g->watching == yes)
		return;
	g->watching = yes;
	if (!yes) {
		TAILQ_REMOVE(&g->tenant->watchers, g, watch_link);
		return;
	}
	TAILQ_INSERT_TAIL(&g->tenant->watchers, g, watch_link);
	g->tenant->dirty = true; /* the peers are asked */
	account_touch(l, g->tenant);
	g->untold = stock_ask(l, g->tenant);
	if (!g->untold)
		tell(l, g);
}
