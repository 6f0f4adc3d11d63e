/* bench: publishers and consumers in one thread against any MQTT server, and what came of it. Each
 * topic has one publisher and (without fanout) one consumer. Start-up only: bench_run() has a loop
 * of its own and returns when the run is over.
 *
 * Latency counts from the moment an event was *due*. At a fixed rate that is its place in a
 * schedule which nothing holds up: when the server stalls, the events that should have been sent
 * meanwhile count the stall too. */
#ifndef LEAT_NODE_BENCH_H
#define LEAT_NODE_BENCH_H

#include "base/err.h"
#include "node/cli/dial.h"
#include "node/cli/histogram.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench_plan {
	const struct dial *dial; /* clients take its tokens in turn */
	const char *sub_addr;    /* the consumers' server, host:port; NULL = dial's as well */
	const char *prefix;      /* of every topic */
	uint32_t publishers;
	uint32_t consumers;
	uint32_t topics;
	size_t size; /* bytes of a payload */
	uint8_t qos;
	bool fanout;          /* every consumer gets every event */
	bool durable;         /* consumers have sessions that outlive their connections */
	uint16_t window;      /* unacknowledged publishes of one publisher */
	uint16_t receive_max; /* of one consumer; 0 = 65,535 */
	double rate;          /* events/s of all publishers; 0 = as fast as it goes */
	uint64_t warmup_us;
	uint64_t duration_us; /* measured; 0 = until `count` are through */
	uint64_t count;
	uint64_t drain_us; /* how long to wait for what is still under way, without progress */
};

struct bench_result {
	double seconds; /* measured */
	double cpu_s;   /* our own, user and system, in that time */
	/* in the measured time */
	uint64_t published;
	uint64_t acked; /* at QoS 0: handed to the connection */
	uint64_t delivered;
	/* of the whole run */
	uint64_t total_published;
	uint64_t total_acked;
	uint64_t total_delivered;
	uint64_t refused;      /* reason codes of 0x80 and above */
	uint64_t missing;      /* acknowledged and not delivered */
	uint64_t out_of_order; /* or twice */
	uint64_t corrupt;
	uint8_t refused_reason; /* the first */
	/* microseconds, of events due in the measured time */
	struct histogram latency; /* due → delivered */
	struct histogram ack;     /* due → acknowledged */
};

/* -1 = the run could not be made, or broke off; e says why. */
int bench_run(const struct bench_plan *plan, struct bench_result *r, struct err *e);

#endif
