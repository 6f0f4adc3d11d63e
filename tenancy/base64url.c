#include "tenancy/base64url.h"

#include <stdint.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static int digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int base64url_decode(struct slice text, struct buf *out)
{
	size_t before = out->len;
	uint32_t acc = 0;
	int bits = 0;

	if (text.n % 4 == 1)
		return -1;
	for (size_t i = 0; i < text.n; i++) {
		int d = digit(text.p[i]);

		if (d < 0)
			goto bad;
		acc = (acc << 6 | (uint32_t)d) & 0xffff;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			buf_u8(out, (uint8_t)(acc >> bits));
		}
	}
	if (acc & ((1U << bits) - 1))
		goto bad;
	return 0;
bad:
	out->len = before;
	return -1;
}

void base64url_encode(struct slice bytes, struct buf *out)
{
	uint32_t acc = 0;
	int bits = 0;

	for (size_t i = 0; i < bytes.n; i++) {
		acc = (acc << 8 | (uint8_t)bytes.p[i]) & 0xffff;
		for (bits += 8; bits >= 6;) {
			bits -= 6;
			buf_u8(out, (uint8_t)alphabet[acc >> bits & 63]);
		}
	}
	if (bits)
		buf_u8(out, (uint8_t)alphabet[acc << (6 - bits) & 63]);
}
