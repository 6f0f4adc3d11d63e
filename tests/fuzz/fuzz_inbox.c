/* inbox_event_new() on any row: it must refuse it or make an event that the journal's reader takes,
 * with the bytes that were given. Input: a byte length of the topic, a byte of the content type,
 * two bytes of the attributes, a byte that says whether it is to wait; then these and the payload.
 */
#include "cluster/inbox_event.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static struct slice take(const uint8_t **data, size_t *size, size_t n)
{
	struct slice s;

	n = n < *size ? n : *size;
	s = slice((const char *)*data, n);
	*data += n;
	*size -= n;
	return s;
}

static void check(const struct inbox_row *row, const struct batch *b)
{
	struct err e;
	struct batch *read =
	        batch_decode(row->tenant_id, 0, 1, 1, batch_attributes(b), batch_body(b), &e);
	struct event x;
	struct event y;

	require(read != NULL);
	batch_event(b, 0, &x);
	batch_event(read, 0, &y);
	require(slice_eq(x.topic, row->topic) && slice_eq(x.payload, row->payload));
	require(slice_eq(x.topic, y.topic) && slice_eq(x.payload, y.payload) &&
	        slice_eq(x.props, y.props) && slice_eq(x.key, y.key));
	require((batch_partition(b) == BATCH_SCHEDULED) == (row->deliver_ms > 0));
	batch_unref(read);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct inbox_row row = {.tenant_id = 1, .layout = {0, 8}};
	const uint8_t *lengths = data;
	struct batch *b;
	struct err e;

	if (size < 5)
		return 0;
	data += 5;
	size -= 5;
	row.topic = take(&data, &size, lengths[0]);
	row.content_type = take(&data, &size, lengths[1]);
	row.attributes = take(&data, &size, (size_t)(lengths[2] << 8 | lengths[3]));
	row.payload = take(&data, &size, size);
	row.deliver_ms = lengths[4];
	b = inbox_event_new(&row, &e);
	if (b)
		check(&row, b);
	batch_unref(b);
	return 0;
}
