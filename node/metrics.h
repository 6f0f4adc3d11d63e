/* metrics: what /metrics says, in Prometheus text format. The single values are rows of
 * metrics.def. Loop thread only. */
#ifndef LEAT_NODE_METRICS_H
#define LEAT_NODE_METRICS_H

#include "base/buf.h"
#include "base/id128.h"
#include "node/delivery/dispatch.h"
#include "node/leader/inbox.h"
#include "node/leader/retention.h"
#include "node/leader/timers.h"
#include "node/limits/limits.h"
#include "node/mqtt/mqtt.h"
#include "node/peer/links.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where the numbers come from, gathered for one page. */
struct metrics_source {
	bool ready;
	uint64_t generation;
	struct id128 session_id; /* zero = none yet */
	size_t tenants;
	size_t connections;
	size_t handshakes;
	size_t append_pending;
	int64_t certificate_expires_s;
	const struct mqtt_stats *mqtt;
	struct dispatch_stats dispatch;
	struct limits_stats limits;
	struct links_stats links;
	struct timers_stats timers;
	struct retention_stats retention;
	struct inbox_stats inbox;
};

void metrics_write(const struct metrics_source *s, struct buf *out);

#endif
