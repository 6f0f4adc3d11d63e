/* Joining a queue: a filter $queue/NAME/FILTER makes it where it is not there, $queue/NAME takes it
 * as it is; who may consume it is judged when its own filter is known. */
#include "node/delivery/queue.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/mqtt/mqtt_reason.h"
#include "tenancy/topic.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static struct subscription *queue_make(struct space *sp, struct slice name,
                                       enum session_start_at start, uint64_t start_value)
{
	char *text = xstrndup(name.p, name.n);
	struct subscription *s = subscription_new(sp, BUS_SUB_QUEUE, text);

	free(text);
	s->state = SUBSCRIPTION_UNCLAIMED;
	s->start = start;
	s->start_value = start_value;
	s->expiry_s = SESSION_FOREVER; /* it outlives its consumers */
	s->queue = queue_new(s);
	map_put(&sp->shares, s->name, strlen(s->name), s);
	return s;
}

struct subscription *queue_get(struct space *sp, const struct filter *f,
                               enum session_start_at start, uint64_t start_value,
                               const struct bus_policy *policy)
{
	struct topic_filter parts = {.filter = slice_str("")};
	struct subscription *s;
	struct queue *q;

	if (topic_filter_parse(slice_str(f->text), &parts, NULL) != 0)
		fatal("a queue without a name");
	s = map_get(&sp->shares, parts.share.p, parts.share.n);
	if (!s)
		s = queue_make(sp, parts.share, start, start_value);
	q = s->queue;
	if (parts.filter.n && policy && !q->known && !q->create) {
		q->create = xstrndup(parts.filter.p, parts.filter.n);
		buf_clear(&q->create_until);
		positions_encode(&q->create_until, "until", f->until);
		q->policy = *policy;
		s->start = start;
		s->start_value = start_value;
	}
	s->members++;
	share_claim(s);
	return s;
}

void queue_encode(const struct queue *q, struct buf *filters)
{
	buf_append_str(filters, "[{\"filter\":");
	buf_json_string(filters, slice_str(q->create));
	buf_append_str(filters, ",\"qos\":1");
	buf_append_slice(filters, buf_slice(&q->create_until));
	buf_append_str(filters, "}]");
}

/* ---- consumers ---------------------------------------------------------------------------------
 */

static const struct filter *filter_of(const struct session *s, const struct subscription *share)
{
	for (size_t i = 0; s->sub && i < s->sub->n_filters; i++) {
		if (s->sub->filters[i].text && s->sub->filters[i].share == share)
			return &s->sub->filters[i];
	}
	return NULL;
}

const char *queue_join(struct subscription *share, struct session *s, uint8_t *reason)
{
	const struct filter *f = filter_of(s, share);
	const char *objection;

	if (!f || !share->queue->known)
		return NULL;
	objection = queue_objection(share->queue, s, slice_str(f->text), reason);
	if (objection || rota_has(&share->rota, &s->consumer) || !session_consumes(s))
		return objection;
	rota_add(&share->rota, &s->consumer);
	subscription_wake(share);
	return NULL;
}

/* Each session that has it among its filters; fn may take it away from it. */
static void each_member(struct subscription *share,
                        void (*fn)(struct session *, struct subscription *))
{
	struct space *sp = share->space;
	struct session **members = xcalloc(share->members + 1, sizeof(struct session *));
	struct session *s;
	size_t n = 0;
	size_t at = 0;

	while ((s = map_next(&sp->sessions, &at)) && n < share->members) {
		if (!filter_of(s, share))
			continue;
		s->requests++;
		members[n++] = s;
	}
	share->requests++;
	for (size_t i = 0; i < n; i++) {
		if (share->state != SUBSCRIPTION_DEAD && !members[i]->dead)
			fn(members[i], share);
		session_unref(members[i]);
	}
	subscription_unref(share);
	free(members);
}

static void admit(struct session *s, struct subscription *share)
{
	uint8_t reason;
	const char *objection = queue_join(share, s, &reason);

	if (!objection)
		return;
	log_info("queue", "tenant=%u sub=%" PRIu64 " consumer refused why=%s",
	         share->space->tenant_id, share->id, log_quote_str(objection));
	session_drop_share(s, share);
}

void queue_opened(struct subscription *share)
{
	each_member(share, admit);
}

static void part(struct session *s, struct subscription *share)
{
	char text[TOPIC_MAX_SHARE_BYTES + 40];

	snprintf(text, sizeof text, "the queue %s was deleted", share->name);
	session_drop_share(s, share);
	if (!s->dead && s->conn_id && s->started)
		session_cut(s, MQTT_REASON_ADMINISTRATIVE_ACTION, text);
}

/* Those that wait for it and would not make it. */
static void refuse_waiting(struct subscription *share)
{
	char text[2 * TOPIC_MAX_SHARE_BYTES + 100];
	struct op *op;
	struct op *next;

	snprintf(text, sizeof text,
	         "there is no queue %s: subscribing to $queue/%s/FILTER makes one", share->name,
	         share->name);
	for (op = TAILQ_FIRST(&share->waiting); op; op = next) {
		struct topic_filter parts = {.filter = slice_str("")};

		next = TAILQ_NEXT(op, waits_link);
		if (topic_filter_parse(op->filters[op->joined - 1].filter, &parts, NULL) == 0 &&
		    parts.filter.n)
			continue;
		op_refuse(op, MQTT_REASON_TOPIC_FILTER_INVALID, text);
		if (share->state == SUBSCRIPTION_DEAD)
			return;
	}
}

void queue_absent(struct subscription *share)
{
	share->requests++;
	share->queue->known = false;
	refuse_waiting(share);
	if (share->state != SUBSCRIPTION_DEAD && share->queue->create)
		share_claim(share);
	else if (share->state != SUBSCRIPTION_DEAD)
		each_member(share, part);
	subscription_unref(share);
}
