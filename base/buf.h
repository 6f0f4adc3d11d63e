/* buf: a growable run of bytes with one owner. Embedded: zero-initialise or buf_init, then
 * buf_release. One thread at a time. Growth dies when out of memory: callers bound what they add.
 */
#ifndef LEAT_BASE_BUF_H
#define LEAT_BASE_BUF_H

#include "base/slice.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buf {
	char *data;
	size_t len; /* bytes used */
	size_t cap; /* bytes allocated */
};

void buf_init(struct buf *b);
void buf_release(struct buf *b);           /* frees the bytes; b is empty and usable again */
void buf_grow(struct buf *b, size_t more); /* make room for at least `more` further bytes */
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_consume(struct buf *b, size_t n); /* drop n bytes from the front */

static inline void buf_clear(struct buf *b)
{
	b->len = 0;
}

/* Room for n bytes at the end, already counted in len; the caller writes them. */
static inline char *buf_extend(struct buf *b, size_t n)
{
	if (b->cap - b->len < n)
		buf_grow(b, n);
	b->len += n;
	return b->data + b->len - n;
}

static inline void buf_append(struct buf *b, const void *p, size_t n)
{
	if (n)
		memcpy(buf_extend(b, n), p, n);
}

static inline void buf_append_slice(struct buf *b, struct slice s)
{
	buf_append(b, s.p, s.n);
}

static inline void buf_append_str(struct buf *b, const char *s)
{
	buf_append(b, s, strlen(s));
}

static inline void buf_u8(struct buf *b, uint8_t v)
{
	*buf_extend(b, 1) = (char)v;
}

static inline void buf_u16be(struct buf *b, uint16_t v)
{
	char *p = buf_extend(b, 2);

	p[0] = (char)(v >> 8);
	p[1] = (char)(v & 0xff);
}

static inline void buf_u32be(struct buf *b, uint32_t v)
{
	buf_u16be(b, (uint16_t)(v >> 16));
	buf_u16be(b, (uint16_t)(v & 0xffff));
}

void buf_u64_dec(struct buf *b, uint64_t v); /* v in decimal digits */
void buf_hex(struct buf *b, struct slice s);

/* A JSON string literal, quotes included (RFC 8259, section 7). The bytes must be valid UTF-8. */
void buf_json_string(struct buf *b, struct slice s);

static inline struct slice buf_slice(const struct buf *b)
{
	return slice(b->data, b->len);
}

#endif
