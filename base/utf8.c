#include "base/utf8.h"

#include <stdint.h>

#define EACH_BYTE(b) (UINT64_C(0x0101010101010101) * (b))

/* Bytes at p that are ASCII other than NUL, judged eight at a time; 0 to n, a multiple of 8. */
static size_t ascii_run(const unsigned char *p, size_t n)
{
	size_t i;

	for (i = 0; i + 8 <= n; i += 8) {
		uint64_t w;

		memcpy(&w, p + i, 8);
		/* the high bit of a byte of (w - 1) is set for NUL, that of w for non-ASCII */
		if (((w - EACH_BYTE(1)) | w) & EACH_BYTE(0x80))
			break;
	}
	return i;
}

/* Length of the non-ASCII character at p, or 0 when it is malformed. */
static size_t sequence(const unsigned char *p, size_t n)
{
	unsigned char lo = 0x80;
	unsigned char hi = 0xbf;
	size_t len = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (p[0] < 0xc2 || p[0] > 0xf4 || len > n)
		return 0;
	if (p[0] == 0xe0)
		lo = 0xa0; /* overlong */
	else if (p[0] == 0xed)
		hi = 0x9f; /* surrogates */
	else if (p[0] == 0xf0)
		lo = 0x90; /* overlong */
	else if (p[0] == 0xf4)
		hi = 0x8f; /* above U+10FFFF */
	if (p[1] < lo || p[1] > hi)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return len;
}

bool utf8_valid_text(struct slice s)
{
	const unsigned char *p = (const unsigned char *)s.p;
	size_t i = 0;

	while (i < s.n) {
		size_t len;

		if (p[i] > 0 && p[i] < 0x80) {
			len = ascii_run(p + i, s.n - i);
			i += len ? len : 1;
			continue;
		}
		len = p[i] ? sequence(p + i, s.n - i) : 0;
		if (!len)
			return false;
		i += len;
	}
	return true;
}
