/* batch_decode() on any row: it must refuse or give a batch whose every event can be read, and what
 * it gave must encode to a row that decodes to the same events. Input: two bytes event count, two
 * bytes length of attributes, attributes, body. */
#include "cluster/batch.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static void compare(const struct batch *a, const struct batch *b)
{
	for (uint32_t i = 0; i < batch_count(b); i++) {
		struct event x;
		struct event y;

		batch_event(a, i, &x);
		batch_event(b, i, &y);
		require(slice_eq(x.topic, y.topic) && slice_eq(x.payload, y.payload) &&
		        slice_eq(x.props, y.props) && slice_eq(x.client, y.client) &&
		        slice_eq(x.key, y.key) && x.expires_ms == y.expires_ms && x.qos == y.qos);
	}
}

static struct batch *encode(const struct batch *from)
{
	struct batch *b = batch_new(1, 0);

	for (uint32_t i = 0; i < batch_count(from); i++) {
		struct event ev;

		batch_event(from, i, &ev);
		if (batch_append(b, &ev, (struct publisher){0}))
			break;
	}
	batch_seal(b);
	return b;
}

/* A space in front keeps it from the reader of our own form: the JSON parser must agree. */
static void compare_with_parser(const struct batch *b)
{
	struct slice text = batch_attributes(b);
	char *spaced = malloc(text.n + 1);
	struct batch *parsed;

	spaced[0] = ' ';
	memcpy(spaced + 1, text.p, text.n);
	parsed = batch_decode(1, 0, 1, batch_count(b), slice(spaced, text.n + 1), batch_body(b),
	                      NULL);
	require(parsed != NULL);
	compare(b, parsed);
	batch_unref(parsed);
	free(spaced);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n;
	struct slice rest;
	struct batch *b;
	struct batch *again;
	struct batch *back;

	if (size < 4)
		return 0;
	n = (size_t)data[2] << 8 | data[3];
	rest = slice(data + 4, size - 4);
	n = n > rest.n ? rest.n : n;
	b = batch_decode(1, 0, 1, (uint32_t)(data[0] << 8 | data[1]), slice(rest.p, n),
	                 slice(rest.p + n, rest.n - n), NULL);
	if (!b)
		return 0;
	compare_with_parser(b);
	again = encode(b);
	compare(b, again);
	back = batch_decode(1, 0, 1, batch_count(again), batch_attributes(again), batch_body(again),
	                    NULL);
	require(back != NULL);
	compare(b, back);
	batch_unref(back);
	batch_unref(again);
	batch_unref(b);
	return 0;
}
