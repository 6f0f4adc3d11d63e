#include "node/cli/bench.h"

#include "base/clock.h"
#include "base/id128.h"
#include "base/mem.h"
#include "node/cli/bench_event.h"
#include "node/cli/client.h"
#include "node/cli/progress.h"
#include "node/net/conn.h"
#include "node/net/loop.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
	CONNECTING_MAX = 64, /* handshakes under way */
	WAKE_US = 200,       /* at a fixed rate: closer events are sent in one wake-up */
	TICK_MS = 10,        /* phases are looked at this often */
	PEER_ID = 24,        /* bytes; 3.1.1 promises 23 characters */
};

enum phase {
	PHASE_CONNECT, /* until everybody is up and subscribed */
	PHASE_WARMUP,
	PHASE_MEASURE,
	PHASE_DRAIN, /* nothing is sent any more */
	PHASE_OVER,
};

/* One client, publisher or consumer. */
struct peer {
	struct bench *bench;
	struct client *client;
	struct client_config config;
	char id[PEER_ID];
	uint32_t index; /* among its kind */
	bool consumer;
	/* publisher */
	uint32_t turn; /* its topics in turn: which is next */
	uint64_t sent; /* events of its schedule */
	/* consumer */
	uint64_t *next_in; /* per topic: the seq that is due */
};

struct topic {
	struct slice name;
	uint64_t next_out; /* seq */
};

struct bench {
	const struct bench_plan *plan;
	struct bench_result *r;
	struct loop *loop;
	struct conn_table *table;
	struct loop_timer *tick;
	struct progress *progress;
	struct peer *peers; /* consumers first */
	uint32_t peer_count;
	uint32_t started; /* peers that began to connect */
	uint32_t ready;   /* publishers that are up, consumers that are subscribed */
	struct topic *topics;
	uint64_t *next_in; /* without fanout: shared by all consumers */
	uint64_t run;
	char *payload; /* of the event being published */
	char *whole;   /* what a payload must look like behind its stamp */
	/* fixed rate */
	int timer_fd;
	struct loop_watch *timer_watch;

	enum phase phase;
	uint64_t start_us; /* first event due */
	uint64_t from_us;  /* measured time: events due from here … */
	uint64_t until_us; /* … to here; UINT64_MAX while unknown */
	double cpu_from;
	uint64_t moved; /* total_delivered + total_acked when last looked at */
	uint64_t moved_us;
	bool failed;
	struct err err;
};

__attribute__((format(printf, 2, 3))) static void bench_fail(struct bench *b, const char *fmt, ...)
{
	va_list ap;

	if (b->failed || b->phase == PHASE_OVER)
		return;
	b->failed = true;
	va_start(ap, fmt);
	vsnprintf(b->err.text, sizeof b->err.text, fmt, ap);
	va_end(ap);
	b->phase = PHASE_OVER;
	loop_stop(b->loop);
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static bool measured(const struct bench *b, uint64_t due_us)
{
	return due_us >= b->from_us && due_us < b->until_us;
}

static uint32_t copies(const struct bench *b)
{
	return b->plan->fanout ? b->plan->consumers : b->plan->consumers > 0;
}

/* ---- publishing ------------------------------------------------------------------------------ */

static bool may_publish(const struct bench *b)
{
	if (b->phase != PHASE_WARMUP && b->phase != PHASE_MEASURE)
		return false;
	return !b->plan->count || b->r->total_published < b->plan->count;
}

static void publish(struct peer *p, uint64_t due_us)
{
	struct bench *b = p->bench;
	uint32_t at = p->index + p->turn * b->plan->publishers;
	struct topic *t;
	struct client_message m = {
	        .payload = slice(b->payload, b->plan->size), .expiry_s = -1, .qos = b->plan->qos};

	if (at >= b->plan->topics) {
		at = p->index;
		p->turn = 0;
	}
	p->turn++;
	t = &b->topics[at];
	m.topic = t->name;
	bench_event_stamp(b->payload, &(struct bench_event){.run = b->run,
	                                                    .due_us = due_us,
	                                                    .seq = t->next_out++,
	                                                    .topic = at,
	                                                    .size = (uint32_t)b->plan->size});
	client_publish(p->client, &m, due_us);
	b->r->total_published++;
	b->r->published += b->phase == PHASE_MEASURE;
	if (!b->plan->qos) {
		b->r->total_acked++;
		b->r->acked += b->phase == PHASE_MEASURE;
	}
}

static void publish_flood(struct peer *p)
{
	while (may_publish(p->bench) && client_can_publish(p->client, p->bench->plan->qos))
		publish(p, clock_us());
}

/* When this publisher's next event is due: the publishers' schedules interleave evenly. */
static uint64_t next_due(const struct peer *p)
{
	const struct bench_plan *plan = p->bench->plan;
	double n = (double)p->sent * plan->publishers + p->index;

	return p->bench->start_us + (uint64_t)(n * 1e6 / plan->rate);
}

/* Send what is due. Returns when the next is, or UINT64_MAX when the server has to move first. */
static uint64_t publish_due(struct peer *p, uint64_t now_us)
{
	uint64_t due;

	while ((due = next_due(p)) <= now_us) {
		if (!may_publish(p->bench) || !client_can_publish(p->client, p->bench->plan->qos))
			return UINT64_MAX;
		publish(p, due);
		p->sent++;
	}
	return due;
}

static void wake_at(struct bench *b, uint64_t us)
{
	const struct itimerspec at = {.it_value = {.tv_sec = (time_t)(us / 1000000),
	                                           .tv_nsec = (long)(us % 1000000) * 1000}};

	if (timerfd_settime(b->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) < 0)
		fatal("timerfd_settime: %s", strerror(errno));
}

static void publish_schedule(struct bench *b)
{
	uint64_t now = clock_us();
	uint64_t next = UINT64_MAX;

	for (uint32_t i = b->plan->consumers; i < b->peer_count; i++) {
		uint64_t due = publish_due(&b->peers[i], now);

		next = due < next ? due : next;
	}
	if (next != UINT64_MAX)
		wake_at(b, next > now + WAKE_US ? next : now + WAKE_US);
}

static void on_timer(void *arg)
{
	struct bench *b = arg;
	uint64_t ticks;

	if (read(b->timer_fd, &ticks, sizeof ticks) == sizeof ticks)
		publish_schedule(b);
}

static void publish_more(struct peer *p)
{
	if (p->bench->plan->rate > 0)
		publish_schedule(p->bench);
	else
		publish_flood(p);
}

/* ---- what the clients tell ---------------------------------------------------------------------
 */

static void connect_more(struct bench *b)
{
	struct err e;

	while (b->started < b->peer_count && b->started - b->ready < CONNECTING_MAX) {
		if (client_connect(b->peers[b->started++].client, &e) < 0)
			bench_fail(b, "%s", e.text);
	}
}

static void subscribe(struct peer *p)
{
	char filter[256];
	struct mqtt_filter f = {.qos = p->bench->plan->qos};

	if (p->bench->plan->fanout)
		snprintf(filter, sizeof filter, "%s/%08" PRIx32 "/#", p->bench->plan->prefix,
		         (uint32_t)p->bench->run);
	else
		snprintf(filter, sizeof filter, "%s/%08" PRIx32 "/%" PRIu32 "/#",
		         p->bench->plan->prefix, (uint32_t)p->bench->run, p->index);
	f.filter = slice_str(filter);
	client_subscribe(p->client, &f, 1, NULL);
}

static void begin(struct bench *b)
{
	b->phase = PHASE_WARMUP;
	b->moved_us = clock_us();
	b->start_us = b->moved_us + 1000;
	b->from_us = b->start_us + b->plan->warmup_us;
	b->until_us = b->plan->duration_us ? b->from_us + b->plan->duration_us : UINT64_MAX;
	if (!b->plan->warmup_us) {
		b->phase = PHASE_MEASURE;
		b->cpu_from = cpu_seconds();
		b->from_us = b->start_us = clock_us();
	}
	if (b->plan->rate > 0 && b->plan->publishers)
		wake_at(b, b->start_us);
	for (uint32_t i = b->plan->consumers; i < b->peer_count && b->plan->rate <= 0; i++)
		publish_flood(&b->peers[i]);
}

static void peer_ready(struct bench *b)
{
	b->ready++;
	connect_more(b);
	if (b->ready == b->peer_count)
		begin(b);
}

static void on_up(struct client *c, void *arg, const struct mqtt_packet *connack)
{
	struct peer *p = arg;

	(void)connack;
	if (client_max_qos(c) < p->bench->plan->qos)
		bench_fail(p->bench, "the server's highest QoS is %u", client_max_qos(c));
	else if (p->consumer)
		subscribe(p);
	else
		peer_ready(p->bench);
}

static void on_suback(struct client *c, void *arg, const struct mqtt_packet *suback)
{
	struct peer *p = arg;
	uint8_t reason = (uint8_t)suback->suback.reasons.p[0];

	(void)c;
	if (reason >= 0x80)
		bench_fail(p->bench, "a subscription was refused: %s", mqtt_reason_text(reason));
	else
		peer_ready(p->bench);
}

static bool on_message(struct client *c, void *arg, const struct mqtt_packet *packet)
{
	struct peer *p = arg;
	struct bench *b = p->bench;
	struct bench_event ev;
	uint64_t now = clock_us();

	(void)c;
	if (bench_event_read(packet->publish.payload, b->whole, &ev) < 0 || ev.run != b->run ||
	    ev.topic >= b->plan->topics || ev.size != b->plan->size) {
		b->r->corrupt++;
		return true;
	}
	if (ev.seq < p->next_in[ev.topic])
		b->r->out_of_order++;
	else
		p->next_in[ev.topic] = ev.seq + 1;
	b->r->total_delivered++;
	b->r->delivered += b->phase == PHASE_MEASURE;
	if (measured(b, ev.due_us))
		histogram_add(&b->r->latency, now > ev.due_us ? now - ev.due_us : 0);
	return true;
}

static void on_acked(struct client *c, void *arg, uint64_t due_us, uint8_t reason,
                     struct slice text)
{
	struct bench *b = ((struct peer *)arg)->bench;
	uint64_t now = clock_us();

	(void)c;
	(void)text;
	if (reason >= 0x80) {
		if (!b->r->refused++)
			b->r->refused_reason = reason;
		return;
	}
	b->r->total_acked++;
	b->r->acked += b->phase == PHASE_MEASURE;
	if (measured(b, due_us))
		histogram_add(&b->r->ack, now > due_us ? now - due_us : 0);
}

static void on_room(struct client *c, void *arg)
{
	(void)c;
	publish_more(arg);
}

static void on_down(struct client *c, void *arg, uint8_t reason, const char *text)
{
	struct peer *p = arg;

	(void)c;
	(void)reason;
	bench_fail(p->bench, "%s %" PRIu32 ": %s", p->consumer ? "consumer" : "publisher",
	           p->index + 1, text);
}

static const struct client_ops ops = {.on_up = on_up,
                                      .on_suback = on_suback,
                                      .on_message = on_message,
                                      .on_acked = on_acked,
                                      .on_room = on_room,
                                      .on_down = on_down};

/* ---- phases ---------------------------------------------------------------------------------- */

static bool all_through(const struct bench *b)
{
	const struct bench_result *r = b->r;

	return r->total_acked + r->refused == r->total_published &&
	       r->total_delivered - r->out_of_order >= r->total_acked * copies(b);
}

static void measure_end(struct bench *b, uint64_t now)
{
	b->r->seconds = (double)(now - b->from_us) / 1e6;
	b->r->cpu_s = cpu_seconds() - b->cpu_from;
	b->until_us = now;
	b->phase = PHASE_DRAIN;
	b->moved_us = now;
}

static bool sent_all(const struct bench *b)
{
	return b->plan->count && b->r->total_published >= b->plan->count;
}

/* Nothing was delivered or acknowledged for drain_us. */
static bool stalled(struct bench *b, uint64_t now)
{
	uint64_t moved = b->r->total_acked + b->r->total_delivered + b->r->refused;

	if (moved != b->moved) {
		b->moved = moved;
		b->moved_us = now;
	}
	return now - b->moved_us > b->plan->drain_us;
}

static void over(struct bench *b)
{
	b->phase = PHASE_OVER;
	for (uint32_t i = 0; i < b->peer_count; i++)
		client_disconnect(b->peers[i].client);
	loop_stop(b->loop);
}

static void on_tick(void *arg)
{
	struct bench *b = arg;
	uint64_t now = clock_us();
	bool still = stalled(b, now);

	switch (b->phase) {
	case PHASE_WARMUP:
		if (now < b->from_us)
			break;
		b->phase = PHASE_MEASURE;
		b->from_us = now;
		b->cpu_from = cpu_seconds();
		if (b->plan->duration_us)
			b->until_us = now + b->plan->duration_us;
		break;
	case PHASE_MEASURE:
		if (now >= b->until_us || (sent_all(b) && (still || all_through(b))))
			measure_end(b, now);
		break;
	case PHASE_DRAIN:
		if (still || all_through(b))
			over(b);
		break;
	default:
		break;
	}
}

static void on_stop(void *arg)
{
	struct bench *b = arg;

	if (b->phase == PHASE_MEASURE)
		measure_end(b, clock_us());
	else
		bench_fail(b, "interrupted");
}

static void say(void *arg, char *out, size_t size)
{
	static const char *const names[] = {"connecting", "warming up", "measuring", "draining",
	                                    "over"};
	struct bench *b = arg;

	if (b->phase == PHASE_CONNECT)
		snprintf(out, size, "%" PRIu32 " of %" PRIu32 " clients are up", b->ready,
		         b->peer_count);
	else
		snprintf(out, size, "%s: %" PRIu64 " published, %" PRIu64 " delivered, p99 %.1f ms",
		         names[b->phase], b->r->total_published, b->r->total_delivered,
		         (double)histogram_quantile(&b->r->latency, 0.99) / 1000);
}

/* ---- making it ------------------------------------------------------------------------------- */

static void make_topics(struct bench *b)
{
	const struct bench_plan *plan = b->plan;
	uint32_t groups = plan->consumers ? plan->consumers : 1;

	b->topics = xcalloc(plan->topics, sizeof *b->topics);
	b->next_in = xcalloc(plan->topics, sizeof *b->next_in);
	for (uint32_t i = 0; i < plan->topics; i++) {
		struct buf name = {0};

		buf_printf(&name, "%s/%08" PRIx32 "/%" PRIu32 "/%" PRIu32, plan->prefix,
		           (uint32_t)b->run, i % groups, i);
		b->topics[i].name = buf_slice(&name);
	}
}

static void make_peer(struct bench *b, uint32_t i)
{
	const struct bench_plan *plan = b->plan;
	struct peer *p = &b->peers[i];
	struct client_config *c = &p->config;

	p->bench = b;
	p->consumer = i < plan->consumers;
	p->index = p->consumer ? i : i - plan->consumers;
	*c = plan->dial->config;
	if (p->consumer && plan->sub_addr)
		c->addr = plan->sub_addr;
	snprintf(p->id, sizeof p->id, "lb%08" PRIx32 "%c%" PRIu32, (uint32_t)b->run,
	         p->consumer ? 's' : 'p', p->index);
	c->client_id = slice_str(p->id);
	c->window = p->consumer ? 1 : plan->window;
	c->receive_max = p->consumer ? plan->receive_max : 0;
	if (plan->dial->token_count)
		c->password = slice_str(plan->dial->tokens[p->index % plan->dial->token_count]);
	if (p->consumer && plan->durable) {
		c->clean_start = false;
		c->session_expiry_s = 3600;
		c->drop_session = true;
	}
	if (p->consumer)
		p->next_in = plan->fanout ? xcalloc(plan->topics, sizeof *p->next_in) : b->next_in;
	p->client = client_new(b->table, c, &ops, p);
}

static void bench_init(struct bench *b)
{
	const struct bench_plan *plan = b->plan;
	struct id128 id = id128_random();

	memcpy(&b->run, id.b, sizeof b->run);
	b->payload = xmalloc(plan->size);
	b->whole = xmalloc(plan->size);
	bench_event_fill(b->payload, plan->size);
	bench_event_fill(b->whole, plan->size);
	b->loop = loop_new();
	b->table = conn_table_new(b->loop);
	make_topics(b);
	b->peer_count = plan->consumers + plan->publishers;
	b->peers = xcalloc(b->peer_count, sizeof *b->peers);
	for (uint32_t i = 0; i < b->peer_count; i++)
		make_peer(b, i);
	b->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (b->timer_fd < 0)
		fatal("timerfd_create: %s", strerror(errno));
	b->timer_watch = loop_watch_read(b->loop, b->timer_fd, on_timer, b);
	b->tick = loop_every(b->loop, TICK_MS, on_tick, b);
	loop_on_signal(b->loop, SIGINT, on_stop, b);
	loop_on_signal(b->loop, SIGTERM, on_stop, b);
	b->progress = progress_new(b->loop, say, b);
}

static void bench_release(struct bench *b)
{
	progress_free(b->progress);
	for (uint32_t i = 0; i < b->peer_count; i++) {
		client_free(b->peers[i].client);
		if (b->plan->fanout)
			free(b->peers[i].next_in);
	}
	for (uint32_t i = 0; i < b->plan->topics; i++)
		free((char *)b->topics[i].name.p);
	free(b->peers);
	free(b->topics);
	free(b->next_in);
	free(b->payload);
	free(b->whole);
	loop_watch_free(b->timer_watch);
	close(b->timer_fd);
	loop_timer_free(b->tick);
	conn_table_free(b->table);
	loop_free(b->loop);
}

static void count_missing(struct bench *b)
{
	uint64_t want = b->r->total_acked * copies(b);
	uint64_t have = b->r->total_delivered - b->r->out_of_order;

	b->r->missing = want > have ? want - have : 0;
}

int bench_run(const struct bench_plan *plan, struct bench_result *r, struct err *e)
{
	struct bench b = {.plan = plan, .r = r};

	assert(plan->size >= BENCH_EVENT_MIN && plan->topics > 0);
	*r = (struct bench_result){0};
	bench_init(&b);
	connect_more(&b);
	if (!b.failed)
		loop_run(b.loop);
	count_missing(&b);
	bench_release(&b);
	if (!b.failed)
		return 0;
	*e = b.err;
	return -1;
}
