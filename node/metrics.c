#include "node/metrics.h"

#include "node/mqtt/mqtt_reason.h"

#include <inttypes.h>

#define GAUGE "gauge"
#define COUNTER "counter"

static void write_head(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_single(const struct metrics_source *s, struct buf *out)
{
#define METRIC(name, TYPE, help, value)     \
	write_head(out, #name, TYPE, help); \
	buf_printf(out, #name " %" PRIu64 "\n", (uint64_t)(value));
#include "node/metrics.def"
#undef METRIC
}

/* One counter per MQTT 5 reason code; those that never occurred are left out. */
static void write_reasons(struct buf *out, const char *name, const char *help,
                          const uint64_t counts[256])
{
	write_head(out, name, COUNTER, help);
	for (unsigned i = 0; i < 256; i++) {
		if (counts[i])
			buf_printf(out, "%s{code=\"0x%02x\",reason=\"%s\"} %" PRIu64 "\n", name, i,
			           mqtt_reason_text((uint8_t)i), counts[i]);
	}
}

static void write_tokens(struct buf *out, const struct mqtt_stats *m)
{
	static const char name[] = "leat_token_refused_total";

	write_head(out, name, COUNTER, "tokens refused, by what was wrong");
	for (unsigned i = 0; i < TOKEN_REFUSAL_COUNT; i++) {
		if (m->token_refused[i])
			buf_printf(out, "%s{why=\"%s\"} %" PRIu64 "\n", name,
			           token_refusal_name((enum token_refusal)i), m->token_refused[i]);
	}
}

static void write_publishes(struct buf *out, const struct mqtt_stats *m)
{
	static const char name[] = "leat_publishes_total";

	write_head(out, name, COUNTER, "publishes taken in, by QoS");
	for (unsigned qos = 0; qos < 2; qos++)
		buf_printf(out, "%s{qos=\"%u\"} %" PRIu64 "\n", name, qos, m->publishes[qos]);
}

/* Counts by bucket; the last bound is UINT64_MAX. Bounds and sum are in units of 1/per_s seconds.
 */
static void write_histogram(struct buf *out, const char *name, const char *help,
                            const uint64_t *counts, uint64_t (*bound)(unsigned bucket),
                            double per_s, uint64_t sum)
{
	uint64_t total = 0;
	uint64_t at = 0;

	write_head(out, name, "histogram", help);
	for (unsigned i = 0; at != UINT64_MAX; i++) {
		at = bound(i);
		total += counts[i];
		if (at == UINT64_MAX)
			buf_printf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, total);
		else
			buf_printf(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
			           (double)at / per_s, total);
	}
	buf_printf(out, "%s_sum %g\n%s_count %" PRIu64 "\n", name, (double)sum / per_s, name,
	           total);
}

static void write_messages(struct buf *out, const char *name, const char *help,
                           const uint64_t *by_type)
{
	write_head(out, name, COUNTER, help);
	for (unsigned type = 1; type < PEER_TYPES; type++)
		buf_printf(out, "%s{type=\"%s\"} %" PRIu64 "\n", name,
		           peer_type_name((uint8_t)type), by_type[type]);
}

static void write_limits(struct buf *out, const char *name, const char *help,
                         const uint64_t counts[LIMIT_COUNT])
{
	write_head(out, name, COUNTER, help);
	for (unsigned i = 0; i < LIMIT_COUNT; i++)
		buf_printf(out, "%s{limit=\"%s\"} %" PRIu64 "\n", name, limit_name((enum limit)i),
		           counts[i]);
}

static void write_session(struct buf *out, const struct metrics_source *s)
{
	char hex[ID128_HEX];

	write_head(out, "leat_node_session", GAUGE, "this life of the node: the label is its id");
	if (id128_is_zero(&s->session_id))
		return;
	id128_hex(&s->session_id, hex);
	buf_printf(out, "leat_node_session{session=\"%s\"} 1\n", hex);
}

void metrics_write(const struct metrics_source *s, struct buf *out)
{
	write_single(s, out);
	write_session(out, s);
	write_publishes(out, s->mqtt);
	write_histogram(out, "leat_puback_seconds", "from reading a PUBLISH to writing its PUBACK",
	                s->mqtt->latency, mqtt_latency_bound_us, 1e6, s->mqtt->latency_sum_us);
	write_messages(out, "leat_peer_received_total", "messages from other nodes",
	               s->links.messages_in);
	write_messages(out, "leat_peer_sent_total", "messages to other nodes",
	               s->links.messages_out);
	write_histogram(out, "leat_timer_lateness_seconds",
	                "from when an event was due to the commit that moved it",
	                s->timers.late.counts, lateness_bound_ms, 1e3, s->timers.late.sum_ms);
	write_histogram(
	        out, "leat_inbox_lateness_seconds",
	        "from publish() in SQL, its own transaction included, to the commit that moved it",
	        s->inbox.late.counts, lateness_bound_ms, 1e3, s->inbox.late.sum_ms);
	write_limits(out, "leat_limit_refused_total",
	             "what tenants were refused because of a limit, or skipped, by limit",
	             s->limits.refused);
	write_limits(out, "leat_limit_slowed_total",
	             "times a connection was not read because of a rate, by limit",
	             s->limits.slowed);
	write_tokens(out, s->mqtt);
	write_reasons(out, "leat_connect_refused_total",
	              "CONNECT packets refused, by CONNACK reason", s->mqtt->connect_refused);
	write_reasons(out, "leat_publish_refused_total", "publishes refused, by PUBACK reason",
	              s->mqtt->publish_refused);
	write_reasons(out, "leat_disconnects_total", "connections ended by the server, by reason",
	              s->mqtt->disconnects);
}
