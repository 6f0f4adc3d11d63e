/* leat bench: load on any MQTT server, and how it bore it. Exit 0 when every acknowledged event
 * came through, once and in order. */
#include "base/log.h"
#include "node/cli/bench.h"
#include "node/cli/bench_event.h"
#include "node/cli/command.h"
#include "node/cli/dial.h"
#include "node/cli/options.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

struct bench_options {
	struct dial_options to;
	const char *sub_url;
	uint64_t publishers;
	uint64_t consumers;
	uint64_t topics;
	const char *topic;
	uint64_t size;
	uint64_t qos;
	uint64_t window;
	uint64_t receive_max;
	uint64_t rate;
	uint64_t duration_ms;
	uint64_t warmup_ms;
	uint64_t drain_ms;
	uint64_t count;
	bool fanout;
	bool durable;
	bool json;
};

#define AT(field) offsetof(struct bench_options, field)
static const struct option rows[] = {
        DIAL_OPTION_ROWS(struct bench_options),
        {"sub-url", 0, OPTION_TEXT, AT(sub_url), .arg = "URL",
         .help = "the consumers' server, another node of the cluster; default: --url"},
        {"publishers", 'P', OPTION_NUMBER, AT(publishers), .arg = "N", .fallback = "4",
         .max = 100000, .help = "connections that publish"},
        {"consumers", 'C', OPTION_NUMBER, AT(consumers), .arg = "N", .fallback = "4", .max = 100000,
         .help = "connections that subscribe"},
        {"topics", 0, OPTION_NUMBER, AT(topics), .arg = "N", .max = 1000000,
         .help = "default: one for each publisher or consumer, whichever are more"},
        {"topic", 't', OPTION_TEXT, AT(topic), .arg = "PREFIX", .fallback = "bench",
         .help = "topics are PREFIX/RUN/CONSUMER/N"},
        {"size", 's', OPTION_SIZE, AT(size), .arg = "BYTES", .fallback = "256",
         .min = BENCH_EVENT_MIN, .max = CLIENT_PACKET_MAX / 2, .help = "of a payload"},
        {"qos", 'q', OPTION_NUMBER, AT(qos), .arg = "0|1|2", .fallback = "1", .max = 2,
         .help = "of publishes and subscriptions"},
        {"window", 'w', OPTION_NUMBER, AT(window), .arg = "N", .fallback = "1000", .min = 1,
         .max = CLIENT_WINDOW_MAX, .help = "publishes under way, for each publisher"},
        {"receive-max", 0, OPTION_NUMBER, AT(receive_max), .arg = "N", .max = 65535,
         .help = "deliveries under way, for each consumer; default 65535"},
        {"rate", 'r', OPTION_NUMBER, AT(rate), .arg = "N",
         .help = "events/s of all publishers together; default: as fast as it goes"},
        {"duration", 'd', OPTION_DURATION, AT(duration_ms), .arg = "TIME", .fallback = "10s",
         .help = "measured time"},
        {"warmup", 0, OPTION_DURATION, AT(warmup_ms), .arg = "TIME", .fallback = "1s",
         .help = "before it; not with --count"},
        {"count", 'n', OPTION_NUMBER, AT(count), .arg = "N", .min = 1,
         .help = "measure until N events are through, instead of for a time"},
        {"drain", 0, OPTION_DURATION, AT(drain_ms), .arg = "TIME", .fallback = "5s",
         .help = "at the end, give up on what is under way after this long without progress"},
        {"fanout", 0, OPTION_FLAG, AT(fanout), .help = "every consumer gets every event"},
        {"durable", 0, OPTION_FLAG, AT(durable),
         .help = "consumers have durable sessions, dropped at the end"},
        {"json", 0, OPTION_FLAG, AT(json), .help = "one line of JSON instead of a table"},
};
static const struct options spec = {"bench", "put load on an MQTT server and measure it",
                                    OPTIONS_ROWS(rows)};

static int make_plan(const struct bench_options *o, const struct dial *d, struct bench_plan *p,
                     struct err *e)
{
	uint64_t most = o->publishers > o->consumers ? o->publishers : o->consumers;

	*p = (struct bench_plan){
	        .dial = d,
	        .prefix = o->topic,
	        .publishers = (uint32_t)o->publishers,
	        .consumers = (uint32_t)o->consumers,
	        .topics = (uint32_t)(o->topics ? o->topics : most),
	        .size = o->size,
	        .qos = (uint8_t)o->qos,
	        .fanout = o->fanout,
	        .durable = o->durable,
	        .window = (uint16_t)o->window,
	        .receive_max = (uint16_t)o->receive_max,
	        .rate = (double)o->rate,
	        .warmup_us = o->count ? 0 : o->warmup_ms * 1000,
	        .duration_us = o->count ? 0 : o->duration_ms * 1000,
	        .count = o->count,
	        .drain_us = o->drain_ms * 1000,
	};
	if (!most)
		return err_set(e, 0, "there is nobody to do anything: --publishers, --consumers");
	if (o->publishers && p->topics < o->publishers)
		return err_set(e, 0, "--topics must be at least --publishers: each has its own");
	if (strlen(o->topic) > 100)
		return err_set(e, 0, "--topic is longer than 100 bytes");
	if (!o->count && !o->duration_ms)
		return err_set(e, 0, "--duration must not be 0 without --count");
	if (o->fanout && most * p->topics > 100000000)
		return err_set(e, 0, "--fanout: too many consumers times topics to keep track of");
	/* an event stays in its tenant: its publisher's and its consumer's token must be the same
	 */
	if (d->token_count > 1 && (o->publishers % d->token_count || o->consumers % d->token_count))
		return err_set(e, 0, "%zu tokens: publishers and consumers must be multiples of it",
		               d->token_count);
	return 0;
}

/* ---- the report ------------------------------------------------------------------------------ */

static const struct {
	const char *name;
	const char *key;
	double share;
} quantiles[] = {
        {"p50", "p50_us", 0.5},
        {"p90", "p90_us", 0.9},
        {"p99", "p99_us", 0.99},
        {"p99.9", "p999_us", 0.999},
};
enum { QUANTILES = sizeof quantiles / sizeof *quantiles };

static double per_second(const struct bench_result *r, uint64_t n)
{
	return r->seconds > 0 ? (double)n / r->seconds : 0;
}

/* Events that went all the way: published, delivered to all who should get them, acknowledged. */
static double through(const struct bench_plan *p, const struct bench_result *r)
{
	double acked = per_second(r, r->acked);
	double delivered = per_second(r, r->delivered) / (p->fanout ? p->consumers : 1);

	return p->consumers && delivered < acked ? delivered : acked;
}

static double cpu_us_per_event(const struct bench_result *r)
{
	return r->acked ? r->cpu_s * 1e6 / (double)r->acked : 0;
}

static void print_latency(const char *name, const struct histogram *h)
{
	if (!h->count)
		return;
	printf("%-10s", name);
	for (int i = 0; i < QUANTILES; i++)
		printf("  %s %.2f", quantiles[i].name,
		       (double)histogram_quantile(h, quantiles[i].share) / 1000);
	printf("  max %.2f  mean %.2f ms\n", (double)h->max / 1000, histogram_mean(h) / 1000);
}

static void print_text(const struct bench_plan *p, const struct bench_result *r, const char *url)
{
	printf("%s: MQTT %s, QoS %u, %" PRIu32 " publishers, %" PRIu32 " consumers, %" PRIu32
	       " topics, %zu bytes, window %u%s%s\n",
	       url, p->dial->config.version == MQTT_V5 ? "5" : "3.1.1", p->qos, p->publishers,
	       p->consumers, p->topics, p->size, p->window, p->fanout ? ", fanout" : "",
	       p->durable ? ", durable" : "");
	printf("published   %.0f/s acknowledged (%" PRIu64 " in %.2f s)\n", per_second(r, r->acked),
	       r->acked, r->seconds);
	printf("delivered   %.0f/s (%" PRIu64 ")\n", per_second(r, r->delivered), r->delivered);
	printf("through     %.0f/s\n", through(p, r));
	print_latency("latency", &r->latency);
	print_latency("ack", &r->ack);
	printf("bench cpu   %.2f s, %.2f us per event\n", r->cpu_s, cpu_us_per_event(r));
	if (r->refused)
		printf("refused     %" PRIu64 ", the first: %s\n", r->refused,
		       mqtt_reason_text(r->refused_reason));
	if (r->missing || r->out_of_order || r->corrupt)
		printf("wrong       %" PRIu64 " missing, %" PRIu64
		       " twice or out of order, %" PRIu64 " damaged\n",
		       r->missing, r->out_of_order, r->corrupt);
}

static void json_latency(struct buf *b, const char *name, const struct histogram *h)
{
	buf_printf(b, ",\"%s\":{\"count\":%" PRIu64, name, h->count);
	for (int i = 0; i < QUANTILES; i++)
		buf_printf(b, ",\"%s\":%" PRIu64, quantiles[i].key,
		           histogram_quantile(h, quantiles[i].share));
	buf_printf(b, ",\"max_us\":%" PRIu64 ",\"mean_us\":%.1f}", h->max, histogram_mean(h));
}

static void print_json(const struct bench_plan *p, const struct bench_result *r, const char *url)
{
	struct buf b = {0};

	buf_append_str(&b, "{\"url\":");
	buf_json_string(&b, slice_str(url));
	buf_printf(&b,
	           ",\"mqtt\":\"%s\",\"qos\":%u,\"publishers\":%" PRIu32 ",\"consumers\":%" PRIu32
	           ",\"topics\":%" PRIu32 ",\"size\":%zu,\"window\":%u,\"rate\":%.0f,"
	           "\"fanout\":%s,\"durable\":%s",
	           p->dial->config.version == MQTT_V5 ? "5" : "3.1.1", p->qos, p->publishers,
	           p->consumers, p->topics, p->size, p->window, p->rate,
	           p->fanout ? "true" : "false", p->durable ? "true" : "false");
	buf_printf(&b,
	           ",\"seconds\":%.3f,\"published\":%" PRIu64 ",\"acked\":%" PRIu64
	           ",\"delivered\":%" PRIu64 ",\"total_published\":%" PRIu64
	           ",\"total_acked\":%" PRIu64 ",\"total_delivered\":%" PRIu64,
	           r->seconds, r->published, r->acked, r->delivered, r->total_published,
	           r->total_acked, r->total_delivered);
	buf_printf(&b,
	           ",\"refused\":%" PRIu64 ",\"missing\":%" PRIu64 ",\"out_of_order\":%" PRIu64
	           ",\"corrupt\":%" PRIu64,
	           r->refused, r->missing, r->out_of_order, r->corrupt);
	buf_printf(&b,
	           ",\"acked_per_s\":%.1f,\"delivered_per_s\":%.1f,\"through_per_s\":%.1f,"
	           "\"cpu_s\":%.3f,\"cpu_us_per_event\":%.3f",
	           per_second(r, r->acked), per_second(r, r->delivered), through(p, r), r->cpu_s,
	           cpu_us_per_event(r));
	json_latency(&b, "latency", &r->latency);
	json_latency(&b, "ack", &r->ack);
	buf_append_str(&b, "}\n");
	fwrite(b.data, 1, b.len, stdout);
	buf_release(&b);
}

/* ---- the command ----------------------------------------------------------------------------- */

/* Everything but the address is as for the publishers. */
static int take_sub_url(const char *text, const struct dial *d, struct client_url *url,
                        struct bench_plan *p, struct err *e)
{
	if (!text)
		return 0;
	if (client_url_parse(url, text, e) < 0)
		return -1;
	if (url->tls != d->url.tls)
		return err_set(e, 0, "--sub-url and --url: both with TLS, or neither");
	p->sub_addr = url->addr;
	return 0;
}

static int bench(const struct bench_options *o, struct dial *d, struct bench_result *r)
{
	struct bench_plan plan;
	struct client_url sub_url;
	struct err e;

	if (dial_open(d, &o->to, &e) < 0 || make_plan(o, d, &plan, &e) < 0 ||
	    take_sub_url(o->sub_url, d, &sub_url, &plan, &e) < 0) {
		fprintf(stderr, "leat bench: %s\n", e.text);
		return OPTIONS_EXIT_USAGE;
	}
	if (bench_run(&plan, r, &e) < 0) {
		fprintf(stderr, "leat bench: %s\n", e.text);
		return 1;
	}
	if (o->json)
		print_json(&plan, r, o->to.url);
	else
		print_text(&plan, r, o->to.url);
	return r->refused || r->missing || r->out_of_order || r->corrupt;
}

int cmd_bench(int argc, char **argv)
{
	static struct bench_result result; /* two histograms: not for the stack */
	struct bench_options o;
	struct dial d = {0};
	int rc;

	if (!options_take(&spec, argc, argv, &o, &rc))
		return rc;
	log_set_level(LOG_ERROR);
	signal(SIGPIPE, SIG_IGN);
	rc = bench(&o, &d, &result);
	dial_release(&d);
	options_release(&spec, &o);
	return rc;
}
