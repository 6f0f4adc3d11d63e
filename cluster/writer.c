#include "cluster/writer.h"

#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
	PAUSE_FIRST_MS = 4,
	PAUSE_MAX_MS = 1000,
	FAILURES_SPLIT = 2, /* from this RETRY on, tenants go apart */
};

/* What is appended as one flush: the whole of what was given, or a piece after a split. */
struct part {
	struct part *next; /* later in publishing order */
	uint32_t failures; /* RETRY answers, those of the part it was split from included */
	bool told;         /* its publishers were answered before the commit: a seeded error */
	size_t n;
	struct batch *batches[]; /* one reference each */
};

enum writer_phase {
	WRITER_IDLE,
	WRITER_SENDING,   /* an append is with the bus */
	WRITER_UNKNOWN,   /* the append may have been stored: resolve before anything else */
	WRITER_RESOLVING, /* that question is with the bus */
	WRITER_READY,     /* the front part is to be sent: after a pause, or when the bus is up */
};

struct writer {
	struct bus *bus;
	uint32_t no;
	struct writer_events events;
	enum writer_phase phase;
	struct part *front; /* being worked on */
	uint32_t asked;     /* resolves that answered RETRY in a row */
	bool pausing;       /* a call of events.after is due */
	bool ask_only; /* resolving to learn fence and number after LOST: nothing is in doubt */

	struct id128 session_id;       /* of `state`; adopted from the bus */
	struct bus_writer_state state; /* fence and last stored flush */

	struct bus_append append;
	struct bus_resolve resolve;

	bool closing; /* writer_free was called: goes when nothing is pending */
};

static void writer_step(struct writer *w);

/* ---- parts --------------------------------------------------------------------------------------
 */

/* `of`: the part it is a piece of, or NULL. */
static struct part *part_new(struct batch *const *take, size_t n, const struct part *of)
{
	struct part *p = xmalloc(sizeof *p + n * sizeof *p->batches);

	p->next = NULL;
	p->failures = of ? of->failures : 0;
	p->told = of && of->told;
	p->n = n;
	memcpy(p->batches, take, n * sizeof *p->batches);
	return p;
}

static void parts_drop(struct writer *w)
{
	while (w->front) {
		struct part *p = w->front;

		w->front = p->next;
		for (size_t i = 0; i < p->n; i++)
			batch_unref(p->batches[i]);
		free(p);
	}
}

/* Replace the front part by its pieces [0, at) and [at, n). */
static void split_at(struct writer *w, size_t at)
{
	struct part *whole = w->front;
	struct part *left = part_new(whole->batches, at, whole);
	struct part *right = part_new(whole->batches + at, whole->n - at, whole);

	left->next = right;
	right->next = whole->next;
	w->front = left;
	free(whole);
}

/* Index of the first batch of another tenant than the first one's; n when there is none. */
static size_t tenant_end(const struct part *p)
{
	size_t i = 1;

	while (i < p->n && batch_tenant(p->batches[i]) == batch_tenant(p->batches[0]))
		i++;
	return i;
}

/* One part per tenant: what one of them meets no longer holds up the others. */
static void split_tenants(struct writer *w)
{
	struct part **at = &w->front;
	struct part *end = w->front->next;

	while (*at != end) {
		struct part *rest = *at;
		size_t n = tenant_end(rest);

		if (n < rest->n) {
			struct part *right = part_new(rest->batches + n, rest->n - n, rest);

			right->next = rest->next;
			rest->next = right;
			rest->n = n;
		}
		at = &rest->next;
	}
}

/* One batch becomes two. */
static void split_events(struct writer *w)
{
	struct part *whole = w->front;
	struct batch *b = whole->batches[0];
	uint32_t half = batch_count(b) / 2;
	struct batch *halves[2] = {
	        batch_split(b, 0, half),
	        batch_split(b, half, batch_count(b)),
	};
	struct part *two = part_new(halves, 2, whole);

	two->next = whole->next;
	w->front = two;
	free(whole);
	batch_unref(b);
	split_at(w, 1);
}

/* ---- answers ------------------------------------------------------------------------------------
 */

static void finish_front(struct writer *w)
{
	struct part *p = w->front;

	w->front = p->next;
	free(p);
	w->phase = WRITER_READY;
	w->asked = 0;
	if (!w->front) {
		w->phase = WRITER_IDLE;
		w->events.on_idle(w->events.arg, w->no);
		return;
	}
	writer_step(w);
}

static void report_stored(struct writer *w)
{
	struct part *p = w->front;

	for (size_t i = 0; i < p->n; i++) {
		if (p->told)
			batch_unref(p->batches[i]);
		else
			w->events.on_stored(w->events.arg, p->batches[i]);
	}
	finish_front(w);
}

static void report_flushed(struct writer *w)
{
	struct part *p = w->front;

	if (w->events.on_flushed)
		w->events.on_flushed(w->events.arg, w->no, w->state.flush_no, p->batches, p->n);
	report_stored(w);
}

static void report_refused(struct writer *w, const char *reason)
{
	struct part *p = w->front;

	for (size_t i = 0; i < p->n; i++) {
		if (p->told)
			batch_unref(p->batches[i]);
		else
			w->events.on_refused(w->events.arg, p->batches[i], reason);
	}
	finish_front(w);
}

/* ---- pauses -------------------------------------------------------------------------------------
 */

static bool writer_gone(struct writer *w)
{
	if (!w->closing || w->pausing || w->phase == WRITER_SENDING || w->phase == WRITER_RESOLVING)
		return w->closing;
	parts_drop(w);
	free(w);
	return true;
}

static void on_pause_over(void *arg)
{
	struct writer *w = arg;

	w->pausing = false;
	if (!writer_gone(w))
		writer_step(w);
}

/* Growing with the number of failures, between half of it and all of it; the session's random id
 * keeps nodes apart that met each other. */
static uint32_t pause_ms(const struct writer *w, uint32_t failures)
{
	uint32_t full = PAUSE_MAX_MS;
	uint64_t jitter = batch_stamp_of(w->session_id.b, w->no, w->state.flush_no + failures);

	if (failures < 8)
		full = PAUSE_FIRST_MS << failures;
	if (full > PAUSE_MAX_MS)
		full = PAUSE_MAX_MS;
	return full / 2 + (uint32_t)(jitter % (full / 2 + 1));
}

static void writer_pause(struct writer *w, uint32_t failures)
{
	w->pausing = true;
	w->events.after(w->events.arg, pause_ms(w, failures), on_pause_over, w);
}

/* ---- append -------------------------------------------------------------------------------------
 */

static void on_retry(struct writer *w)
{
	struct part *p = w->front;

	w->phase = WRITER_READY;
	p->failures++;
	if (p->failures >= FAILURES_SPLIT)
		split_tenants(w);
	if (p->failures >= FAILURES_SPLIT)
		log_warn("writer", "writer=%u flush=%" PRIu64 " failures=%u batches=%zu again",
		         w->no, w->append.flush_no, p->failures, p->n);
	writer_pause(w, p->failures);
}

/* The database refused something in the front part: narrow it down, or refuse what is left. */
static void on_fatal(struct writer *w)
{
	struct part *p = w->front;
	size_t culprit = w->append.culprit;

	w->phase = WRITER_READY;
	if (p->n > 1) {
		if (culprit < p->n)
			split_at(w, culprit ? culprit : 1);
		else if (tenant_end(p) < p->n)
			split_tenants(w);
		else
			split_at(w, p->n / 2);
		writer_step(w);
		return;
	}
	if (batch_count(p->batches[0]) > 1) {
		split_events(w);
		writer_step(w);
		return;
	}
	log_warn("writer", "writer=%u tenant=%u partition=%u an event was refused: %s", w->no,
	         batch_tenant(p->batches[0]), batch_partition(p->batches[0]), w->append.error);
	report_refused(w, w->append.error);
}

static bool is_sealed(const struct bus_append *req, const struct batch *b)
{
	return batch_tenant(b) == req->sealed_tenant && batch_partition(b) < req->layout.first;
}

/* What was meant for sealed heads goes back; the rest of the flush is sent again without it. False:
 * that is not what stands in the way. */
static bool return_sealed(struct writer *w)
{
	const struct bus_append *req = &w->append;
	struct part *p = w->front;
	struct batch **sealed = xcalloc(p->n, sizeof *sealed);
	size_t n_sealed = 0;
	size_t n = 0;

	for (size_t i = 0; i < p->n && req->sealed_tenant; i++) {
		if (is_sealed(req, p->batches[i]))
			sealed[n_sealed++] = p->batches[i];
		else
			p->batches[n++] = p->batches[i];
	}
	if (!n_sealed) {
		free(sealed);
		return false;
	}
	p->n = n;
	log_info("writer", "writer=%u tenant=%u sealed=%zu first_partition=%u partitions=%u", w->no,
	         req->sealed_tenant, n_sealed, req->layout.first, req->layout.n);
	for (size_t i = 0; i < n_sealed; i++)
		w->events.on_sealed(w->events.arg, sealed[i], req->layout);
	free(sealed);
	w->phase = WRITER_READY;
	if (n)
		writer_step(w);
	else
		finish_front(w);
	return true;
}

static void on_appended(struct bus_append *req)
{
	struct writer *w = req->arg;

	w->phase = WRITER_READY;
	if (writer_gone(w))
		return;
	switch (req->outcome) {
	case SQL_OK:
		w->state.flush_no = req->flush_no;
		report_flushed(w);
		break;
	case SQL_UNKNOWN:
		w->phase = WRITER_UNKNOWN;
		w->ask_only = false;
		writer_step(w);
		break;
	case SQL_LOST:
		/* Session or number is not what we think. Nothing is in doubt; see what is there.
		 */
		w->phase = WRITER_UNKNOWN;
		w->ask_only = true;
		writer_pause(w, ++w->asked);
		break;
	case SQL_FATAL:
		if (!return_sealed(w))
			on_fatal(w);
		break;
	case SQL_DUP: /* a number given twice: as good as a deadlock, it was rolled back */
	case SQL_RETRY:
		on_retry(w);
		break;
	}
}

/* The seeded error of that name; a part is answered once, however often it is sent. */
static void tell_too_soon(struct writer *w)
{
	struct part *p = w->front;

	for (size_t i = 0; i < p->n && !p->told; i++)
		w->events.on_stored(w->events.arg, batch_ref(p->batches[i]));
	p->told = true;
}

static void send_append(struct writer *w)
{
	struct part *p = w->front;

	w->phase = WRITER_SENDING;
	w->append = (struct bus_append){
	        .done = on_appended,
	        .arg = w,
	        .writer_no = w->no,
	        .flush_no = w->state.flush_no + 1,
	        .fence = w->state.fence,
	        .n = p->n,
	        .batches = p->batches,
	        .culprit = SIZE_MAX,
	};
	if (BUG("ack-before-commit"))
		tell_too_soon(w);
	w->bus->ops->append(w->bus, &w->append);
}

/* ---- resolve ------------------------------------------------------------------------------------
 */

static void on_known(struct writer *w)
{
	bool stored = !w->ask_only && w->resolve.flush_no >= w->append.flush_no;

	w->state.fence = w->resolve.fence;
	w->state.flush_no = w->resolve.flush_no;
	log_info("writer", "writer=%u flush=%" PRIu64 " resolved=%s", w->no, w->append.flush_no,
	         stored ? "stored" : "not-stored");
	w->phase = WRITER_READY;
	if (stored)
		report_stored(w);
	else
		writer_step(w);
}

static void on_resolved(struct bus_resolve *req)
{
	struct writer *w = req->arg;

	w->phase = WRITER_UNKNOWN;
	if (writer_gone(w))
		return;
	if (req->outcome == SQL_OK) {
		on_known(w);
	} else if (req->outcome == SQL_LOST && w->ask_only) {
		w->phase = WRITER_READY;
		writer_pause(w, ++w->asked);
	} else if (req->outcome == SQL_LOST) {
		/* Saying "stored" could be false, saying nothing would hold the publisher for ever:
		 * a refused event that is there after all is the lesser evil. */
		report_refused(w, "the outcome of the commit cannot be found out");
	} else {
		writer_pause(w, ++w->asked);
	}
}

static void send_resolve(struct writer *w)
{
	w->phase = WRITER_RESOLVING;
	w->resolve = (struct bus_resolve){
	        .done = on_resolved,
	        .arg = w,
	        .session_id = w->session_id,
	        .writer_no = w->no,
	        .fence = w->state.fence,
	};
	w->bus->ops->resolve(w->bus, &w->resolve);
}

/* ---- steps --------------------------------------------------------------------------------------
 */

/* A session that replaced ours begins with the writer state it brings; what is in doubt is asked of
 * the old one first. */
static void adopt_session(struct writer *w)
{
	if (id128_eq(&w->session_id, &w->bus->session_id))
		return;
	w->session_id = w->bus->session_id;
	w->state = w->bus->writers[w->no];
}

/* Go on with the front part, unless something is pending or the bus is away. */
static void writer_step(struct writer *w)
{
	if (w->pausing || w->bus->state != BUS_UP)
		return;
	if (w->phase == WRITER_UNKNOWN && w->ask_only &&
	    !id128_eq(&w->session_id, &w->bus->session_id))
		w->phase = WRITER_READY;
	if (w->phase == WRITER_UNKNOWN) {
		send_resolve(w);
	} else if (w->phase == WRITER_READY) {
		adopt_session(w);
		send_append(w);
	}
}

struct writer *writer_new(struct bus *bus, uint32_t writer_no, const struct writer_events *events)
{
	struct writer *w = xcalloc(1, sizeof *w);

	assert(writer_no < BUS_WRITERS);
	w->bus = bus;
	w->no = writer_no;
	w->events = *events;
	return w;
}

void writer_free(struct writer *w)
{
	if (!w)
		return;
	w->closing = true;
	writer_gone(w);
}

bool writer_busy(const struct writer *w)
{
	return w->phase != WRITER_IDLE;
}

void writer_flush(struct writer *w, struct batch *const *take, size_t n)
{
	assert(!writer_busy(w) && !w->closing && n > 0);
	w->front = part_new(take, n, NULL);
	w->phase = WRITER_READY;
	writer_step(w);
}

void writer_on_state(struct writer *w, enum bus_state state)
{
	if (state == BUS_UP)
		writer_step(w);
}
