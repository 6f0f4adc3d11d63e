/* Consumers of queues that hold an event longer than the queue's ack time-out: they are cut off,
 * and the event has had a failed attempt. MQTT forbids to send it again on a connection that lives
 * [MQTT-4.4.0-1]. One look for all sessions, a few times a second. */
#include "node/delivery/queue.h"

#include "base/clock.h"
#include "node/mqtt/mqtt_reason.h"

#include <stdio.h>

enum { LOOK_MS = 50 };

static void on_look(void *arg);

static void arm(struct dispatch *d)
{
	if (d->watching || LIST_EMPTY(&d->watched))
		return;
	d->watching = true;
	dispatch_after(d, LOOK_MS, on_look, d);
}

void ack_timeout_watch(struct session *s, uint16_t packet_id, uint32_t timeout_ms)
{
	struct dispatch *d = s->space->dispatch;
	uint64_t due = clock_now_ms() + timeout_ms;

	packet_ids_find(&s->ids, packet_id)->due_ms = due;
	if (s->watched && due >= s->ack_due_ms)
		return;
	s->ack_due_ms = due;
	if (s->watched)
		return;
	s->watched = true;
	LIST_INSERT_HEAD(&d->watched, s, watch_link);
	arm(d);
}

void ack_timeout_forget(struct session *s)
{
	if (s->watched)
		LIST_REMOVE(s, watch_link);
	s->watched = false;
}

/* The next that is due; 0 = none. */
static uint64_t earliest(const struct session *s)
{
	uint64_t due = 0;

	for (uint32_t i = 0; i < s->ids.n; i++) {
		const struct packet_id *slot = &s->ids.slots[i];

		if (slot->used && slot->place && slot->due_ms && (!due || slot->due_ms < due))
			due = slot->due_ms;
	}
	return due;
}

/* It takes no more; what it held too long has failed. */
static void fail_overdue(struct session *s, uint64_t now, char *text, size_t size)
{
	s->started = false;
	for (uint32_t i = 0; i < s->ids.n; i++) {
		struct packet_id slot = s->ids.slots[i];

		if (!slot.used || !slot.place || !slot.due_ms || slot.due_ms > now)
			continue;
		snprintf(text, size, "an event of queue %s was not acknowledged within %u ms",
		         slot.place->sub->name, slot.place->sub->queue->policy.ack_timeout_ms);
		packet_ids_free(&s->ids, (uint16_t)(i + 1));
		place_result(slot.place, slot.seq, PEER_TIMEOUT, slice_str(text));
	}
}

static void look(struct dispatch *d, struct session *s, uint64_t now)
{
	char text[300];
	uint64_t due = now >= s->ack_due_ms ? earliest(s) : s->ack_due_ms;

	s->ack_due_ms = due;
	if (!due || !s->conn_id) {
		ack_timeout_forget(s);
		return;
	}
	if (due > now)
		return;
	ack_timeout_forget(s);
	d->stats.ack_timeouts++;
	fail_overdue(s, now, text, sizeof text);
	session_cut(s, MQTT_REASON_IMPLEMENTATION_ERROR, text);
}

static void on_look(void *arg)
{
	struct dispatch *d = arg;
	uint64_t now = clock_now_ms();
	struct session *s;
	struct session *next;

	d->watching = false;
	for (s = LIST_FIRST(&d->watched); s; s = next) {
		next = LIST_NEXT(s, watch_link);
		if (next)
			next->requests++; /* cutting one off may end others */
		look(d, s, now);
		if (next) {
			bool gone = !next->watched;

			session_unref(next);
			if (gone)
				break; /* the next look finds the others */
		}
	}
	arm(d);
}
