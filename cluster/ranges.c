#include "cluster/ranges.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

enum { RANGES_FIRST = 8, VARINT_MAX = 10 /* bytes */ };

void ranges_release(struct ranges *r)
{
	free(r->items);
	*r = (struct ranges){0};
}

void ranges_clear(struct ranges *r)
{
	r->n = 0;
}

/* Index of the first range whose last is >= seq. */
static size_t lower_bound(const struct ranges *r, uint64_t seq)
{
	size_t lo = 0;
	size_t hi = r->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (r->items[mid].last < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void insert_at(struct ranges *r, size_t i, struct range x)
{
	if (r->n == r->cap) {
		r->cap = r->cap ? r->cap * 2 : RANGES_FIRST;
		r->items = xrealloc(r->items, r->cap * sizeof *r->items);
	}
	memmove(r->items + i + 1, r->items + i, (r->n - i) * sizeof *r->items);
	r->items[i] = x;
	r->n++;
}

static void remove_at(struct ranges *r, size_t i, size_t count)
{
	if (!count)
		return;
	memmove(r->items + i, r->items + i + count, (r->n - i - count) * sizeof *r->items);
	r->n -= count;
}

void ranges_add(struct ranges *r, uint64_t first, uint64_t last)
{
	size_t from;
	size_t to;

	assert(first > 0 && first <= last);
	from = lower_bound(r, first - 1); /* a range ending just before touches */
	for (to = from; to < r->n && r->items[to].first <= (last == UINT64_MAX ? last : last + 1);
	     to++) {
		if (r->items[to].first < first)
			first = r->items[to].first;
		if (r->items[to].last > last)
			last = r->items[to].last;
	}
	if (from == to) {
		insert_at(r, from, (struct range){first, last});
		return;
	}
	r->items[from] = (struct range){first, last};
	remove_at(r, from + 1, to - from - 1);
}

bool ranges_contain(const struct ranges *r, uint64_t seq)
{
	size_t i = lower_bound(r, seq);

	return i < r->n && r->items[i].first <= seq;
}

void ranges_trim(struct ranges *r, uint64_t through)
{
	if (through == UINT64_MAX) {
		ranges_clear(r);
		return;
	}
	remove_at(r, 0, lower_bound(r, through + 1));
	if (r->n && r->items[0].first <= through)
		r->items[0].first = through + 1;
}

static size_t varint_put(unsigned char *out, uint64_t v)
{
	size_t n = 0;

	while (v >= 0x80) {
		out[n++] = (unsigned char)(v | 0x80);
		v >>= 7;
	}
	out[n++] = (unsigned char)v;
	return n;
}

void ranges_encode(const struct ranges *r, uint64_t acked_through, size_t max_bytes,
                   struct buf *out)
{
	size_t before = out->len;
	uint64_t at = acked_through;

	for (size_t i = 0; i < r->n; i++) {
		unsigned char text[2 * VARINT_MAX];
		struct range x = r->items[i];
		size_t n;

		if (x.last <= acked_through)
			continue;
		if (x.first <= acked_through)
			x.first = acked_through + 1;
		n = varint_put(text, x.first - at - 1);
		n += varint_put(text + n, x.last - x.first);
		if (out->len - before + n > max_bytes)
			return;
		buf_append(out, text, n);
		at = x.last;
	}
}

/* Cut a varint from the front of *s. -1 when it is not there or does not fit 64 bits. */
static int varint_take(struct slice *s, uint64_t *out)
{
	uint64_t v = 0;

	for (size_t i = 0; i < s->n && i < VARINT_MAX; i++) {
		unsigned char c = (unsigned char)s->p[i];

		if (i == VARINT_MAX - 1 && c > 1)
			return -1;
		v |= (uint64_t)(c & 0x7f) << (7 * i);
		if (!(c & 0x80)) {
			*s = slice(s->p + i + 1, s->n - i - 1);
			*out = v;
			return 0;
		}
	}
	return -1;
}

/* The next pair, after `at`. Two ranges that touch would have been one: gap 0 only in front. */
static int range_take(struct slice *s, uint64_t at, bool front, struct range *out)
{
	uint64_t gap;
	uint64_t length;

	if (varint_take(s, &gap) || varint_take(s, &length) || at == UINT64_MAX)
		return -1;
	if ((gap == 0 && !front) || gap > UINT64_MAX - at - 1 || length > UINT64_MAX - at - 1 - gap)
		return -1;
	out->first = at + 1 + gap;
	out->last = out->first + length;
	return 0;
}

int ranges_decode(struct ranges *r, uint64_t acked_through, struct slice bytes)
{
	uint64_t at = acked_through;

	ranges_clear(r);
	while (bytes.n) {
		struct range x;

		if (range_take(&bytes, at, r->n == 0, &x)) {
			ranges_clear(r);
			return -1;
		}
		insert_at(r, r->n, x);
		at = x.last;
	}
	return 0;
}
