/* leat sub: subscribe, and write what comes to standard output, one payload a line. An event is
 * acknowledged when it has been written. */
#include "node/cli/command.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "node/cli/client.h"
#include "node/cli/dial.h"
#include "node/cli/options.h"
#include "node/cli/progress.h"
#include "node/net/conn.h"
#include "node/net/loop.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	STDOUT_HIGH = 256 * 1024, /* bytes not yet taken by the reader: we take no more */
	STDOUT_CHUNK = 4096,      /* PIPE_BUF: what poll() promises does not block */
	STDOUT_RETRY_MS = 5,      /* a full pipe is looked at again */
	STDOUT_LOOK_MS = 500,     /* is anybody still reading? */
	BACKOFF_FIRST_MS = 100,
	BACKOFF_MAX_MS = 5000,
};

struct sub_options {
	struct dial_options to;
	struct option_list topics;
	const char *queue;
	const char *share;
	const char *session;
	const char *start;
	const char *until;
	uint64_t expiry_ms;
	uint64_t qos;
	uint64_t count;
	uint64_t timeout_ms;
	uint64_t receive_max;
	bool verbose;
	bool reconnect;
};

static const struct option rows[] = {
        DIAL_OPTION_ROWS(struct sub_options),
        {"topic", 't', OPTION_LIST, offsetof(struct sub_options, topics), .arg = "FILTER..",
         .help = "what to subscribe to; + and # as in MQTT"},
        {"queue", 0, OPTION_TEXT, offsetof(struct sub_options, queue), .arg = "NAME",
         .help = "work on this queue ($queue/NAME, or $queue/NAME/FILTER)"},
        {"share", 0, OPTION_TEXT, offsetof(struct sub_options, share), .arg = "NAME",
         .help = "share the filters with others of this name ($share/NAME/FILTER)"},
        {"session", 's', OPTION_TEXT, offsetof(struct sub_options, session), .arg = "ID",
         .help = "durable session with this client id: nothing is missed while away"},
        {"expiry", 0, OPTION_DURATION, offsetof(struct sub_options, expiry_ms), .arg = "TIME",
         .fallback = "7d", .max = 4294967295000, .help = "how long the session outlives us"},
        {"start", 0, OPTION_TEXT, offsetof(struct sub_options, start),
         .arg = "earliest|new|seq:N|time:RFC3339",
         .help = "where a new subscription begins (user property leat-start)"},
        {"until", 0, OPTION_TEXT, offsetof(struct sub_options, until),
         .arg = "now|seq:N|time:RFC3339",
         .help = "where it ends, beside --start (user property leat-until)"},
        {"qos", 'q', OPTION_NUMBER, offsetof(struct sub_options, qos), .arg = "0|1|2",
         .fallback = "1", .max = 2, .help = "the highest QoS of deliveries"},
        {"count", 'n', OPTION_NUMBER, offsetof(struct sub_options, count), .arg = "N", .min = 1,
         .help = "end after N events"},
        {"timeout", 0, OPTION_DURATION, offsetof(struct sub_options, timeout_ms), .arg = "TIME",
         .help = "end after this long; exit 1 when --count was not reached"},
        {"receive-max", 0, OPTION_NUMBER, offsetof(struct sub_options, receive_max), .arg = "N",
         .min = 1, .max = 65535, .fallback = "1000",
         .help = "events on their way to us that are not acknowledged"},
        {"verbose", 'v', OPTION_FLAG, offsetof(struct sub_options, verbose),
         .help = "print the topic before the payload"},
        {"reconnect", 0, OPTION_FLAG, offsetof(struct sub_options, reconnect), .fallback = "yes",
         .help = "connect again when an established connection is lost"},
};
static const struct options spec = {"sub", "subscribe and print events", OPTIONS_ROWS(rows)};

struct sub {
	struct sub_options o;
	struct dial dial;
	struct loop *loop;
	struct conn_table *table;
	struct client *client;
	struct progress *progress;
	struct loop_timer *reconnect;
	struct loop_timer *stdout_retry; /* looks at stdout again */
	struct loop_timer *deadline;

	struct mqtt_filter *filters;
	char **names; /* of the filters, when they were made here */
	size_t filter_count;
	struct buf props; /* of the SUBSCRIBE */
	struct buf until; /* of a later one */

	struct buf out; /* for stdout */
	bool paused;    /* the client, until stdout has taken it */
	bool was_up;
	bool ending; /* the connection's end is the end */
	bool failed; /* said why already */
	uint64_t backoff_ms;
	uint64_t received;
};

/* ---- the end --------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 0))) static void say_error(struct sub *s, const char *fmt,
                                                            va_list ap)
{
	progress_clear(s->progress);
	fputs("leat sub: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

__attribute__((format(printf, 2, 3))) static void sub_note(struct sub *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say_error(s, fmt, ap);
	va_end(ap);
}

static void sub_end(struct sub *s)
{
	s->ending = true;
	if (s->client)
		client_disconnect(s->client);
	if (s->loop && (!s->client || !client_is_up(s->client)))
		loop_stop(s->loop);
}

__attribute__((format(printf, 2, 3))) static void sub_fail(struct sub *s, const char *fmt, ...)
{
	va_list ap;

	if (s->failed)
		return;
	s->failed = true;
	va_start(ap, fmt);
	say_error(s, fmt, ap);
	va_end(ap);
	sub_end(s);
}

static bool sub_complete(const struct sub *s)
{
	return s->o.count && s->received == s->o.count;
}

static void on_stop(void *arg)
{
	sub_end(arg);
}

static void on_deadline(void *arg)
{
	struct sub *s = arg;

	if (s->o.count && !sub_complete(s))
		sub_fail(s, "%" PRIu64 " of %" PRIu64 " events came in time", s->received,
		         s->o.count);
	else
		sub_end(s);
}

/* ---- stdout: never waited for, or the server would miss our keep-alive -------------------------
 */

static bool stdout_gone(struct sub *s)
{
	struct pollfd fd = {.fd = STDOUT_FILENO, .events = 0};

	if (poll(&fd, 1, 0) <= 0 || !(fd.revents & (POLLERR | POLLHUP | POLLNVAL)))
		return false;
	buf_clear(&s->out);
	sub_end(s);
	return true;
}

/* Write what stdout takes now. False when it is closed. */
static bool stdout_write(struct sub *s)
{
	struct pollfd fd = {.fd = STDOUT_FILENO, .events = POLLOUT};
	size_t at = 0;

	while (at < s->out.len && poll(&fd, 1, 0) > 0 && (fd.revents & POLLOUT)) {
		size_t n = s->out.len - at < STDOUT_CHUNK ? s->out.len - at : STDOUT_CHUNK;
		ssize_t w = write(STDOUT_FILENO, s->out.data + at, n);

		if (w < 0 && errno != EINTR && errno != EAGAIN) {
			if (errno != EPIPE)
				sub_fail(s, "cannot write: %s", strerror(errno));
			buf_clear(&s->out);
			sub_end(s);
			return false;
		}
		at += w > 0 ? (size_t)w : 0;
	}
	buf_consume(&s->out, at);
	return true;
}

/* What is written is acknowledged: all of it, when all of it is. */
static void stdout_flush(struct sub *s)
{
	if (s->ending || !stdout_write(s))
		return;
	if (s->out.len) {
		if (s->out.len > STDOUT_HIGH && !s->paused) {
			s->paused = true;
			client_pause(s->client);
		}
		loop_timer_set(s->stdout_retry, STDOUT_RETRY_MS);
		return;
	}
	client_send_acks(s->client);
	if (sub_complete(s)) {
		sub_end(s);
	} else if (s->paused) {
		s->paused = false;
		client_resume(s->client);
	}
}

static void on_turn_end(void *arg)
{
	struct sub *s = arg;

	stdout_flush(s);
}

static void on_stdout_retry(void *arg)
{
	struct sub *s = arg;

	if (!s->ending && !stdout_gone(s))
		loop_timer_set(s->stdout_retry, STDOUT_LOOK_MS);
}

/* ---- the connection -------------------------------------------------------------------------- */

static bool on_message(struct client *c, void *arg, const struct mqtt_packet *p)
{
	struct sub *s = arg;

	(void)c;
	if (s->ending || sub_complete(s))
		return false;
	s->received++;
	if (s->o.verbose) {
		buf_append_slice(&s->out, p->publish.topic);
		buf_u8(&s->out, ' ');
	}
	buf_append_slice(&s->out, p->publish.payload);
	buf_u8(&s->out, '\n');
	if (s->out.len > STDOUT_HIGH)
		stdout_flush(s);
	return true;
}

static void on_suback(struct client *c, void *arg, const struct mqtt_packet *p)
{
	struct sub *s = arg;
	struct slice text = p->props.reason_string;

	(void)c;
	for (size_t i = 0; i < p->suback.reasons.n && i < s->filter_count; i++) {
		uint8_t reason = (uint8_t)p->suback.reasons.p[i];
		struct slice f = s->filters[i].filter;

		if (reason >= 0x80)
			sub_fail(s, "subscription to %.*s was refused: %s%s%.*s", (int)f.n, f.p,
			         mqtt_reason_text(reason), text.n ? ": " : "", (int)text.n,
			         text.p ? text.p : "");
	}
}

static void on_up(struct client *c, void *arg, const struct mqtt_packet *connack)
{
	struct sub *s = arg;
	struct mqtt_props props = {.extra = buf_slice(&s->props)};

	(void)connack;
	if (s->was_up)
		sub_note(s, "connected again");
	/* a place to start from is for the first time: later it would be a jump back */
	if (s->was_up)
		props.extra = buf_slice(&s->until);
	client_subscribe(c, s->filters, s->filter_count, props.extra.n ? &props : NULL);
	s->was_up = true;
	s->backoff_ms = BACKOFF_FIRST_MS;
}

static void reconnect(void *arg)
{
	struct sub *s = arg;
	struct err e;

	if (client_connect(s->client, &e) < 0)
		sub_fail(s, "%s", e.text);
}

/* Would the same CONNECT fare better later? */
static bool may_retry(uint8_t reason)
{
	switch (reason) {
	case 0:
	case MQTT_REASON_UNSPECIFIED:
	case MQTT_REASON_SERVER_UNAVAILABLE:
	case MQTT_REASON_SERVER_BUSY:
	case MQTT_REASON_SERVER_SHUTTING_DOWN:
	case MQTT_REASON_KEEP_ALIVE_TIMEOUT:
	case MQTT_REASON_QUOTA_EXCEEDED:
	case MQTT_REASON_USE_ANOTHER_SERVER:
	case MQTT_REASON_CONNECTION_RATE_EXCEEDED:
		return true;
	default:
		return false;
	}
}

static void on_down(struct client *c, void *arg, uint8_t reason, const char *text)
{
	struct sub *s = arg;

	(void)c;
	if (s->ending) {
		loop_stop(s->loop);
		return;
	}
	s->paused = false;
	if (!s->was_up || !s->o.reconnect || !may_retry(reason)) {
		sub_fail(s, "%s", text);
		return;
	}
	sub_note(s, "%s; connecting again in %" PRIu64 " ms", text, s->backoff_ms);
	loop_timer_set(s->reconnect, s->backoff_ms);
	s->backoff_ms = s->backoff_ms * 2 < BACKOFF_MAX_MS ? s->backoff_ms * 2 : BACKOFF_MAX_MS;
}

static const struct client_ops ops = {
        .on_up = on_up, .on_suback = on_suback, .on_message = on_message, .on_down = on_down};

static void say(void *arg, char *out, size_t size)
{
	struct sub *s = arg;

	snprintf(out, size, "%" PRIu64 " events received", s->received);
}

/* ---- start ----------------------------------------------------------------------------------- */

static void add_filter(struct sub *s, const char *prefix, const char *name, const char *filter)
{
	struct buf b = {0};

	buf_printf(&b, "%s%s%s%s", prefix, name, *name && *filter ? "/" : "", filter);
	buf_u8(&b, '\0');
	s->names[s->filter_count] = b.data;
	s->filters[s->filter_count++] =
	        (struct mqtt_filter){.filter = slice(b.data, b.len - 1), .qos = (uint8_t)s->o.qos};
}

static int make_filters(struct sub *s, struct err *e)
{
	const struct option_list *t = &s->o.topics;
	const char *prefix = s->o.queue ? "$queue/" : s->o.share ? "$share/" : "";
	const char *name = s->o.queue ? s->o.queue : s->o.share ? s->o.share : "";

	if (!t->n && !s->o.queue)
		return err_set(e, 0, "give -t FILTER.. or --queue NAME");
	if (s->o.queue && s->o.share)
		return err_set(e, 0, "--queue and --share exclude each other");
	if (s->o.queue && !s->o.qos)
		return err_set(e, 0,
		               "--queue needs --qos 1: a queue's events are done when they "
		               "are acknowledged");
	if (strpbrk(name, "/+#"))
		return err_set(e, 0, "a name of --queue or --share has none of / + #");
	s->filters = xcalloc(t->n + 1, sizeof *s->filters);
	s->names = xcalloc(t->n + 1, sizeof *s->names);
	if (!t->n)
		add_filter(s, prefix, name, "");
	for (size_t i = 0; i < t->n; i++)
		add_filter(s, prefix, name, t->v[i]);
	for (size_t i = 0; i < s->filter_count; i++) {
		struct slice f = s->filters[i].filter;

		if (!f.n || f.n > UINT16_MAX || !utf8_valid_text(f))
			return err_set(e, 0, "a filter must be 1 to 65,535 bytes of UTF-8");
	}
	return 0;
}

static int check_start(struct sub *s, struct err *e)
{
	const char *t = s->o.start;

	if (!t)
		return 0;
	if (strcmp(t, "earliest") != 0 && strcmp(t, "new") != 0 && strncmp(t, "seq:", 4) != 0 &&
	    strncmp(t, "time:", 5) != 0)
		return err_set(e, 0, "--start is earliest, new, seq:N or time:RFC3339");
	if (s->dial.config.version == MQTT_V311)
		return err_set(e, 0, "--start needs MQTT 5");
	mqtt_put_user(&s->props, slice_str("leat-start"), slice_str(t));
	return 0;
}

static int check_until(struct sub *s, struct err *e)
{
	const char *t = s->o.until;

	if (!t)
		return 0;
	if (strcmp(t, "now") != 0 && strncmp(t, "seq:", 4) != 0 && strncmp(t, "time:", 5) != 0)
		return err_set(e, 0, "--until is now, seq:N or time:RFC3339");
	if (s->dial.config.version == MQTT_V311)
		return err_set(e, 0, "--until needs MQTT 5");
	mqtt_put_user(&s->until, slice_str("leat-until"), slice_str(t));
	buf_append_slice(&s->props, buf_slice(&s->until));
	return 0;
}

static void set_session(struct sub *s)
{
	struct client_config *c = &s->dial.config;

	c->hold_acks = true;
	c->receive_max = (uint16_t)s->o.receive_max;
	if (!s->o.session)
		return;
	c->client_id = slice_str(s->o.session);
	c->clean_start = false;
	c->session_expiry_s = (uint32_t)((s->o.expiry_ms + 999) / 1000);
}

static int sub_open(struct sub *s, struct err *e)
{
	if (dial_open(&s->dial, &s->o.to, e) < 0 || make_filters(s, e) < 0 ||
	    check_start(s, e) < 0 || check_until(s, e) < 0)
		return -1;
	set_session(s);
	s->loop = loop_new();
	s->table = conn_table_new(s->loop);
	s->client = client_new(s->table, &s->dial.config, &ops, s);
	s->backoff_ms = BACKOFF_FIRST_MS;
	if (client_connect(s->client, e) < 0)
		return -1;
	loop_on_turn_end(s->loop, on_turn_end, s);
	loop_on_signal(s->loop, SIGINT, on_stop, s);
	loop_on_signal(s->loop, SIGTERM, on_stop, s);
	s->stdout_retry = loop_after(s->loop, STDOUT_LOOK_MS, on_stdout_retry, s);
	s->reconnect = loop_after(s->loop, 0, reconnect, s);
	loop_timer_stop(s->reconnect);
	if (s->o.timeout_ms)
		s->deadline = loop_after(s->loop, s->o.timeout_ms, on_deadline, s);
	if (!isatty(STDOUT_FILENO))
		s->progress = progress_new(s->loop, say, s);
	return 0;
}

static void timer_free(struct loop_timer *t)
{
	if (t)
		loop_timer_free(t);
}

static void sub_release(struct sub *s)
{
	progress_free(s->progress);
	timer_free(s->reconnect);
	timer_free(s->stdout_retry);
	timer_free(s->deadline);
	client_free(s->client);
	conn_table_free(s->table);
	if (s->loop)
		loop_free(s->loop);
	dial_release(&s->dial);
	for (size_t i = 0; i < s->filter_count; i++)
		free(s->names[i]);
	free(s->names);
	free(s->filters);
	buf_release(&s->props);
	buf_release(&s->until);
	buf_release(&s->out);
	options_release(&spec, &s->o);
}

int cmd_sub(int argc, char **argv)
{
	struct sub s = {0};
	struct err e;
	int rc;

	if (!options_take(&spec, argc, argv, &s.o, &rc))
		return rc;
	log_set_level(LOG_ERROR);
	signal(SIGPIPE, SIG_IGN);
	if (sub_open(&s, &e) < 0) {
		sub_note(&s, "%s", e.text);
		rc = OPTIONS_EXIT_USAGE;
	} else {
		loop_run(s.loop);
		rc = s.failed || (s.o.count && !sub_complete(&s));
	}
	sub_release(&s);
	return rc;
}
