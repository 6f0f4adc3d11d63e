#include "node/delivery/positions.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct positions *positions_new(struct layout l)
{
	struct positions *p = xcalloc(1, sizeof *p + l.n * sizeof *p->seqs);

	p->layout = l;
	return p;
}

struct positions *positions_copy(const struct positions *p)
{
	struct positions *copy;

	if (!p)
		return NULL;
	copy = positions_new(p->layout);
	memcpy(copy->seqs, p->seqs, p->layout.n * sizeof *p->seqs);
	return copy;
}

void positions_encode(struct buf *out, const char *name, const struct positions *p)
{
	if (!p)
		return;
	buf_printf(out, ",\"%s\":[", name);
	for (uint32_t i = 0; i < p->layout.n; i++)
		buf_printf(out, "%s%" PRIu64, i ? "," : "", p->seqs[i]);
	buf_u8(out, ']');
	if (p->layout.first)
		buf_printf(out, ",\"%s_at\":%" PRIu32, name, p->layout.first);
}

/* The row is not trusted: somebody may have edited it. */
struct positions *positions_decode(const json_t *object, const char *name)
{
	const json_t *list = json_object_get(object, name);
	struct positions *p;
	struct layout l;
	char at[32];

	if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > POSITIONS_MAX)
		return NULL;
	snprintf(at, sizeof at, "%s_at", name);
	l.first = (uint32_t)json_integer_value(json_object_get(object, at));
	l.n = (uint32_t)json_array_size(list);
	p = positions_new(l);
	for (uint32_t i = 0; i < l.n; i++)
		p->seqs[i] = (uint64_t)json_integer_value(json_array_get(list, i));
	return p;
}
