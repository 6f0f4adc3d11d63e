#include "node/peer/hint.h"

#include <stdbool.h>

/* What lands in the timer table moves no head. */
static bool has_head(const struct batch *b)
{
	return batch_partition(b) != BATCH_SCHEDULED;
}

static bool same_head(const struct bus_head *h, const struct batch *b)
{
	return h->tenant_id == batch_tenant(b) && h->partition_id == batch_partition(b);
}

static void send(struct peer_port *port, struct peer_message *m)
{
	port->send_all(port->self, m);
	m->n_heads = 0;
}

void hint_send(struct peer_port *port, const struct id128 *me, uint32_t writer_no,
               uint64_t flush_no, struct batch *const *batches, size_t n)
{
	struct bus_head heads[BUS_FLUSH_MAX_HEADS];
	struct peer_message m = {.type = PEER_STORED,
	                         .session_id = *me,
	                         .writer_no = writer_no,
	                         .flush_no = flush_no,
	                         .heads = heads};

	for (size_t i = 0; i < n; i++) {
		const struct batch *b = batches[i];

		if (!has_head(b))
			continue;
		if (!m.n_heads || !same_head(&heads[m.n_heads - 1], b)) {
			if (m.n_heads == BUS_FLUSH_MAX_HEADS) {
				m.writer_no = HINT_NO_WRITER; /* the last part stands for all */
				send(port, &m);
				m.writer_no = writer_no;
			}
			heads[m.n_heads++] = (struct bus_head){.tenant_id = batch_tenant(b),
			                                       .partition_id = batch_partition(b)};
		}
		heads[m.n_heads - 1].next_seq = batch_base_seq(b) + batch_count(b);
	}
	if (m.n_heads || writer_no != HINT_NO_WRITER)
		send(port, &m);
}
