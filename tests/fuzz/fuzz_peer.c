/* A link's input as anybody may send it: frames are cut, a HELLO or a message is decoded or
 * refused; what was decoded points into the input, and encodes to the same bytes. */
#include "node/peer/peer_codec.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static void require_within(struct slice all, struct slice part)
{
	require(!part.n || (part.p >= all.p && part.p + part.n <= all.p + all.n));
}

static void check_message(const struct peer_frame *f, const struct peer_message *m)
{
	struct buf again = {0};

	require_within(f->payload, m->name);
	require_within(f->payload, m->filters);
	require_within(f->payload, m->attributes);
	require_within(f->payload, m->body);
	for (size_t i = 0; i < m->n_deliveries; i++)
		require_within(f->payload, m->deliveries[i].reason);
	peer_encode(&again, m);
	require(again.len == f->size);
	require(slice_eq(slice(again.data + PEER_FRAME_HEAD, again.len - PEER_FRAME_HEAD),
	                 f->payload));
	buf_release(&again);
}

static void take_frame(struct peer_decoder *d, const struct peer_frame *f)
{
	struct peer_message m;
	struct peer_hello hello;

	if (f->type == PEER_FRAME_HELLO) {
		if (peer_hello_decode(f->payload, &hello, NULL) == 0)
			require_within(f->payload, hello.addr);
	} else if (peer_decode(d, f, &m, NULL) == 0) {
		check_message(f, &m);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct peer_decoder d = {0};
	struct peer_frame f;
	size_t at = 0;

	while (peer_frame_cut(slice(data + at, size - at), PEER_FRAME_MAX, &f) == PEER_CUT_OK) {
		require(f.size > 0 && f.size <= size - at);
		take_frame(&d, &f);
		at += f.size;
	}
	peer_decoder_release(&d);
	return 0;
}
