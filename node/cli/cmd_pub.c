/* leat pub: publish one event, or one for each line of the input; exit 0 only when the server has
 * acknowledged them all. */
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
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	READ_BYTES = 64 * 1024,
	LINE_MAX_BYTES = 32 * 1024 * 1024, /* also of a file sent whole */
};

struct pub_options {
	struct dial_options to;
	const char *topic;
	uint64_t qos;
	const char *message;
	const char *file;
	bool lines;
	bool retain;
	const char *client_id;
	const char *key;
	const char *content_type;
	struct option_list properties;
	uint64_t expiry_ms;
	uint64_t window;
};

static const struct option rows[] = {
        DIAL_OPTION_ROWS(struct pub_options),
        {"topic", 't', OPTION_TEXT, offsetof(struct pub_options, topic), .arg = "TOPIC",
         .flags = OPTION_REQUIRED, .help = "where to publish"},
        {"qos", 'q', OPTION_NUMBER, offsetof(struct pub_options, qos), .arg = "0|1|2",
         .fallback = "1", .max = 2, .help = "0 = no acknowledgement, 1 = at least once, 2 = once"},
        {"message", 'm', OPTION_TEXT, offsetof(struct pub_options, message), .arg = "TEXT",
         .help = "the payload"},
        {"file", 'f', OPTION_TEXT, offsetof(struct pub_options, file), .arg = "FILE",
         .help = "the payload is this file; - = standard input"},
        {"lines", 'l', OPTION_FLAG, offsetof(struct pub_options, lines),
         .help = "one event for each line of standard input"},
        {"retain", 'r', OPTION_FLAG, offsetof(struct pub_options, retain),
         .help = "the server keeps it as the topic's last value"},
        {"key", 'k', OPTION_TEXT, offsetof(struct pub_options, key), .arg = "KEY",
         .env = "ordering-key", .help = "ordering key (user property leat-key)"},
        {"content-type", 0, OPTION_TEXT, offsetof(struct pub_options, content_type), .arg = "TYPE",
         .help = "MIME type of the payload"},
        {"property", 0, OPTION_LIST, offsetof(struct pub_options, properties), .arg = "K=V..",
         .help = "user properties"},
        {"expiry", 0, OPTION_DURATION, offsetof(struct pub_options, expiry_ms), .arg = "TIME",
         .help = "undelivered after this long, the event is dropped; whole seconds"},
        {"client-id", 'i', OPTION_TEXT, offsetof(struct pub_options, client_id), .arg = "ID",
         .help = "default: the server names us"},
        {"window", 0, OPTION_NUMBER, offsetof(struct pub_options, window), .arg = "N",
         .fallback = "1000", .min = 1, .max = CLIENT_WINDOW_MAX,
         .help = "events under way at once; the server may allow fewer"},
};
static const struct options spec = {"pub", "publish events", OPTIONS_ROWS(rows)};

struct pub {
	struct pub_options o;
	struct dial dial;
	struct loop *loop;
	struct conn_table *table;
	struct client *client;
	struct progress *progress;
	struct client_message message; /* payload changes, the rest stays */
	struct buf props;              /* message.props */

	/* the input: what was read and not yet published */
	int fd;
	struct loop_watch *watch; /* NULL for a regular file, which is always ready */
	struct buf in;
	size_t at;
	bool eof;

	uint64_t sent;
	uint64_t acked;
	bool failed; /* said why already */
};

__attribute__((format(printf, 2, 3))) static void pub_fail(struct pub *p, const char *fmt, ...)
{
	va_list ap;

	if (p->failed)
		return;
	p->failed = true;
	progress_clear(p->progress);
	fputs("leat pub: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (p->client)
		client_disconnect(p->client);
}

/* ---- input ----------------------------------------------------------------------------------- */

/* Read once. False at the end, on an error, and when the input has nothing now. */
static bool pub_read(struct pub *p)
{
	ssize_t n;

	if (p->eof)
		return false;
	if (p->at) {
		buf_consume(&p->in, p->at);
		p->at = 0;
	}
	n = read(p->fd, buf_extend(&p->in, READ_BYTES), READ_BYTES);
	p->in.len -= READ_BYTES - (size_t)(n > 0 ? n : 0);
	if (n > 0)
		return true;
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return false;
	if (n < 0)
		pub_fail(p, "cannot read the input: %s", strerror(errno));
	p->eof = true;
	if (p->watch)
		loop_watch_pause(p->watch);
	return false;
}

static bool next_line(struct pub *p, struct slice *line)
{
	size_t left = p->in.len - p->at;
	const char *start = p->in.data + p->at;
	const char *end = left ? memchr(start, '\n', left) : NULL;

	if (!end && !(p->eof && left))
		return false;
	*line = slice(start, end ? (size_t)(end - start) : left);
	p->at += line->n + (end != NULL);
	return true;
}

/* The next payload, if it is there. -m is an input that was read before we began. */
static bool pub_next(struct pub *p, struct slice *payload)
{
	if (p->o.lines)
		return next_line(p, payload);
	if (!p->eof || p->sent)
		return false;
	*payload = buf_slice(&p->in);
	p->at = p->in.len;
	return true;
}

static bool pub_done(const struct pub *p)
{
	return p->eof && p->at == p->in.len && (p->o.lines || p->sent);
}

/* ---- publishing ------------------------------------------------------------------------------ */

static bool pub_one(struct pub *p, struct slice payload)
{
	p->message.payload = payload;
	if (client_message_size(p->client, &p->message) > client_max_packet(p->client)) {
		pub_fail(p,
		         "event %" PRIu64 " has %zu bytes, more than the server takes in a "
		         "packet (%u)",
		         p->sent + 1, payload.n, client_max_packet(p->client));
		return false;
	}
	client_publish(p->client, &p->message, ++p->sent);
	return true;
}

static void pump(struct pub *p)
{
	struct slice payload;

	if (p->failed)
		return;
	while (client_can_publish(p->client, p->message.qos)) {
		if (pub_next(p, &payload)) {
			if (!pub_one(p, payload))
				return;
		} else if (p->eof || p->watch || (!pub_read(p) && !p->eof)) {
			break;
		}
	}
	if (p->in.len - p->at > LINE_MAX_BYTES)
		pub_fail(p, "event %" PRIu64 " is longer than %d bytes", p->sent + 1,
		         LINE_MAX_BYTES);
	if (pub_done(p) && !client_inflight(p->client))
		client_disconnect(p->client);
	if (p->watch && !p->eof && p->in.len - p->at <= READ_BYTES)
		loop_watch_resume(p->watch);
}

static void on_input(void *arg)
{
	struct pub *p = arg;

	pub_read(p);
	/* a window's worth is waiting: the sender has to wait as well */
	if (p->o.lines && !p->eof && p->in.len > READ_BYTES)
		loop_watch_pause(p->watch);
	pump(p);
}

static void open_input(struct pub *p)
{
	struct stat st;

	if (p->o.message) {
		buf_append_str(&p->in, p->o.message);
		p->eof = true;
		return;
	}
	if (fstat(p->fd, &st) < 0 || !S_ISREG(st.st_mode))
		p->watch = loop_watch_read(p->loop, p->fd, on_input, p);
}

/* ---- the connection -------------------------------------------------------------------------- */

static void on_up(struct client *c, void *arg, const struct mqtt_packet *connack)
{
	struct pub *p = arg;

	(void)connack;
	if (p->message.qos > client_max_qos(c)) {
		pub_fail(p, "the server's highest QoS is %u", client_max_qos(c));
		return;
	}
	open_input(p);
	pump(p);
}

static void on_acked(struct client *c, void *arg, uint64_t tag, uint8_t reason, struct slice text)
{
	struct pub *p = arg;

	(void)c;
	if (reason >= 0x80)
		pub_fail(p, "event %" PRIu64 " was refused: %s%s%.*s", tag,
		         mqtt_reason_text(reason), text.n ? ": " : "", (int)text.n,
		         text.p ? text.p : "");
	p->acked++;
	if (pub_done(p) && !client_inflight(p->client))
		pump(p);
}

static void on_room(struct client *c, void *arg)
{
	(void)c;
	pump(arg);
}

static void on_down(struct client *c, void *arg, uint8_t reason, const char *text)
{
	struct pub *p = arg;

	(void)c;
	(void)reason;
	if (!pub_done(p) || (p->message.qos && p->acked < p->sent)) {
		if (p->sent)
			pub_fail(p,
			         "%s; %" PRIu64 " events were acknowledged, %" PRIu64 " were not",
			         text, p->acked, p->sent - p->acked);
		else
			pub_fail(p, "%s", text);
	}
	loop_stop(p->loop);
}

static const struct client_ops ops = {
        .on_up = on_up, .on_acked = on_acked, .on_room = on_room, .on_down = on_down};

static void say(void *arg, char *out, size_t size)
{
	struct pub *p = arg;

	snprintf(out, size, "%" PRIu64 " events sent, %" PRIu64 " acknowledged", p->sent, p->acked);
}

static void on_stop(void *arg)
{
	pub_fail(arg, "interrupted");
}

/* ---- start ----------------------------------------------------------------------------------- */

static int put_property(struct buf *out, const char *text, struct err *e)
{
	const char *eq = strchr(text, '=');
	struct slice key;
	struct slice value;

	if (!eq || eq == text)
		return err_set(e, 0, "--property '%.80s' is not KEY=VALUE", text);
	key = slice(text, (size_t)(eq - text));
	value = slice_str(eq + 1);
	if (key.n > UINT16_MAX || value.n > UINT16_MAX || !utf8_valid_text(slice_str(text)))
		return err_set(e, 0, "--property %.80s: not UTF-8, or longer than 65,535 bytes",
		               text);
	mqtt_put_user(out, key, value);
	return 0;
}

static int put_text(struct buf *out, enum mqtt_prop_id id, const char *name, const char *text,
                    struct err *e)
{
	struct slice s = slice_str(text);

	if (!text)
		return 0;
	if (s.n > UINT16_MAX || !utf8_valid_text(s))
		return err_set(e, 0, "--%s is not UTF-8, or longer than 65,535 bytes", name);
	if (id == MQTT_PROP_USER_PROPERTY)
		mqtt_put_user(out, slice_str("leat-key"), s);
	else
		mqtt_put_bytes(out, id, s);
	return 0;
}

static int make_props(struct pub *p, struct err *e)
{
	if (put_text(&p->props, MQTT_PROP_CONTENT_TYPE, "content-type", p->o.content_type, e) < 0 ||
	    put_text(&p->props, MQTT_PROP_USER_PROPERTY, "key", p->o.key, e) < 0)
		return -1;
	for (size_t i = 0; i < p->o.properties.n; i++) {
		if (put_property(&p->props, p->o.properties.v[i], e) < 0)
			return -1;
	}
	if (p->dial.config.version == MQTT_V311 && (p->props.len || p->o.expiry_ms))
		return err_set(e, 0,
		               "MQTT 3.1.1 has no properties: leave out --key, "
		               "--content-type, --property and --expiry");
	return 0;
}

static int make_message(struct pub *p, struct err *e)
{
	struct slice topic = slice_str(p->o.topic);

	if (!topic.n || topic.n > UINT16_MAX || !utf8_valid_text(topic) ||
	    strpbrk(p->o.topic, "+#"))
		return err_set(e, 0,
		               "the topic must be 1 to 65,535 bytes of UTF-8 without + and #");
	if ((p->o.message != NULL) + (p->o.file != NULL) + p->o.lines != 1)
		return err_set(e, 0, "give one of -m TEXT, -f FILE and -l");
	if (make_props(p, e) < 0)
		return -1;
	p->message = (struct client_message){
	        .topic = topic,
	        .props = buf_slice(&p->props),
	        .expiry_s = p->o.expiry_ms ? (int64_t)((p->o.expiry_ms + 999) / 1000) : -1,
	        .qos = (uint8_t)p->o.qos,
	        .retain = p->o.retain,
	};
	if (p->o.file && strcmp(p->o.file, "-") != 0)
		p->fd = open(p->o.file, O_RDONLY | O_CLOEXEC);
	return p->fd >= 0 ? 0 : err_set(e, 0, "cannot open %s: %s", p->o.file, strerror(errno));
}

static int pub_open(struct pub *p, struct err *e)
{
	p->fd = STDIN_FILENO;
	if (dial_open(&p->dial, &p->o.to, e) < 0 || make_message(p, e) < 0)
		return -1;
	p->dial.config.client_id = slice_str(p->o.client_id);
	p->dial.config.window = (uint16_t)p->o.window;
	p->loop = loop_new();
	p->table = conn_table_new(p->loop);
	p->client = client_new(p->table, &p->dial.config, &ops, p);
	if (client_connect(p->client, e) < 0)
		return -1;
	loop_on_signal(p->loop, SIGINT, on_stop, p);
	loop_on_signal(p->loop, SIGTERM, on_stop, p);
	if (p->o.lines)
		p->progress = progress_new(p->loop, say, p);
	return 0;
}

static void pub_release(struct pub *p)
{
	progress_free(p->progress);
	if (p->watch)
		loop_watch_free(p->watch);
	client_free(p->client);
	conn_table_free(p->table);
	if (p->loop)
		loop_free(p->loop);
	dial_release(&p->dial);
	buf_release(&p->in);
	buf_release(&p->props);
	options_release(&spec, &p->o);
	if (p->fd > STDIN_FILENO)
		close(p->fd);
}

int cmd_pub(int argc, char **argv)
{
	struct pub p = {0};
	struct err e;
	int rc;

	if (!options_take(&spec, argc, argv, &p.o, &rc))
		return rc;
	log_set_level(LOG_ERROR);
	signal(SIGPIPE, SIG_IGN);
	if (pub_open(&p, &e) < 0) {
		pub_fail(&p, "%s", e.text);
		rc = OPTIONS_EXIT_USAGE;
	} else {
		loop_run(p.loop);
		rc = p.failed;
	}
	pub_release(&p);
	return rc;
}
