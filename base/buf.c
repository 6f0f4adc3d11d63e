#include "base/buf.h"

#include "base/mem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { BUF_FIRST_BYTES = 64 };

void buf_init(struct buf *b)
{
	*b = (struct buf){0};
}

void buf_release(struct buf *b)
{
	free(b->data);
	buf_init(b);
}

void buf_grow(struct buf *b, size_t more)
{
	size_t cap = b->cap ? b->cap : BUF_FIRST_BYTES;

	while (cap - b->len < more)
		cap *= 2;
	if (cap != b->cap) {
		b->data = xrealloc(b->data, cap);
		b->cap = cap;
	}
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	va_list again;
	int n;

	assert(fmt);
	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n > 0) {
		buf_grow(b, (size_t)n + 1);
		vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
		b->len += (size_t)n;
	}
	va_end(again);
}

void buf_consume(struct buf *b, size_t n)
{
	if (n >= b->len) {
		b->len = 0;
		return;
	}
	if (n) {
		memmove(b->data, b->data + n, b->len - n);
		b->len -= n;
	}
}

void buf_u64_dec(struct buf *b, uint64_t v)
{
	char digits[20];
	size_t n = 0;

	do {
		digits[sizeof digits - ++n] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	buf_append(b, digits + sizeof digits - n, n);
}

static bool json_plain(unsigned char c)
{
	return c >= 0x20 && c != '"' && c != '\\';
}

static void json_escape(struct buf *b, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	char *p;

	if (c == '"' || c == '\\') {
		p = buf_extend(b, 2);
		p[0] = '\\';
		p[1] = (char)c;
		return;
	}
	p = buf_extend(b, 6);
	memcpy(p, "\\u00", 4);
	p[4] = hex[c >> 4];
	p[5] = hex[c & 15];
}

void buf_json_string(struct buf *b, struct slice s)
{
	size_t i = 0;

	buf_u8(b, '"');
	while (i < s.n) {
		size_t run = i;

		while (run < s.n && json_plain((unsigned char)s.p[run]))
			run++;
		buf_append(b, s.p + i, run - i);
		if (run < s.n)
			json_escape(b, (unsigned char)s.p[run++]);
		i = run;
	}
	buf_u8(b, '"');
}

void buf_hex(struct buf *b, struct slice s)
{
	static const char digits[] = "0123456789abcdef";
	char *p = buf_extend(b, 2 * s.n);

	for (size_t i = 0; i < s.n; i++) {
		*p++ = digits[(unsigned char)s.p[i] >> 4];
		*p++ = digits[(unsigned char)s.p[i] & 15];
	}
}
