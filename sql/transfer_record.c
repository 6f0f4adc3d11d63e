#include "sql/transfer_record.h"

#include "base/mem.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>

enum { TAG_NULL, TAG_INTEGER, TAG_BYTES };
enum { INTEGER_BYTES = 8, LENGTH_BYTES = 4 };

static const struct transfer_table tables[] = {
#define TRANSFER(table, number_, types_, columns, from, put_, marks, rows) \
	{.name = #table,                                                   \
	 .types = types_,                                                  \
	 .get = STMT_ADMIN_EXPORT_##table,                                 \
	 .put = STMT_ADMIN_IMPORT_##table,                                 \
	 .put_many = STMT_ADMIN_IMPORT_MANY_##table,                       \
	 .many = (rows),                                                   \
	 .number = (number_)},
#define TRANSFER_LEFT_OUT(table, why)
#include "sql/transfer.def"
#undef TRANSFER_LEFT_OUT
#undef TRANSFER
};

unsigned transfer_table_count(void)
{
	return sizeof tables / sizeof *tables;
}

const struct transfer_table *transfer_table_at(unsigned i)
{
	return &tables[i];
}

const struct transfer_table *transfer_table_of(uint8_t number)
{
	for (unsigned i = 0; i < transfer_table_count(); i++)
		if (tables[i].number == number)
			return &tables[i];
	return NULL;
}

bool transfer_is_identity(const struct transfer_table *t)
{
	return t->number == TRANSFER_KEYS || t->number == TRANSFER_CERTIFICATES;
}

/* ---- records ---- */

static void put_u64(struct buf *out, uint64_t v)
{
	buf_u32be(out, (uint32_t)(v >> 32));
	buf_u32be(out, (uint32_t)v);
}

void transfer_record_put(struct buf *out, const char *types, const struct sql_cell *cells)
{
	for (size_t i = 0; types[i]; i++) {
		const struct sql_cell *cell = &cells[i];

		if (cell->null) {
			buf_u8(out, TAG_NULL);
		} else if (types[i] == 'u') {
			buf_u8(out, TAG_INTEGER);
			put_u64(out, cell->u);
		} else {
			buf_u8(out, TAG_BYTES);
			buf_u32be(out, (uint32_t)cell->bytes.n);
			buf_append_slice(out, cell->bytes);
		}
	}
}

static uint64_t number_at(const char *p, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | (uint8_t)p[i];
	return v;
}

static const char *cut(struct slice *rest, size_t n, struct err *e)
{
	const char *at = rest->p;

	if (rest->n < n) {
		err_set(e, 0, "a record ends early");
		return NULL;
	}
	*rest = slice(at + n, rest->n - n);
	return at;
}

static int take_bytes(struct slice *rest, char type, struct sql_param *out, struct err *e)
{
	const char *at = cut(rest, LENGTH_BYTES, e);
	size_t n = at ? (size_t)number_at(at, LENGTH_BYTES) : 0;

	at = at ? cut(rest, n, e) : NULL;
	if (!at)
		return -1;
	*out = type == 't' ? sql_utf8(at, n) : sql_bytes(at, n);
	return 0;
}

static int take_integer(struct slice *rest, struct sql_param *out, struct err *e)
{
	const char *at = cut(rest, INTEGER_BYTES, e);

	if (!at)
		return -1;
	*out = sql_u64(number_at(at, INTEGER_BYTES));
	return 0;
}

static int take_value(struct slice *rest, char type, struct sql_param *out, struct err *e)
{
	const char *tag = cut(rest, 1, e);

	if (!tag)
		return -1;
	*out = sql_null();
	if (*tag == TAG_NULL)
		return 0;
	if (*tag == TAG_INTEGER && type == 'u')
		return take_integer(rest, out, e);
	if (*tag == TAG_BYTES && type != 'u')
		return take_bytes(rest, type, out, e);
	return err_set(e, 0, "a record's column is not of its type");
}

int transfer_record_take(struct slice *rest, const char *types, struct sql_param *params,
                         struct err *e)
{
	for (size_t i = 0; types[i]; i++)
		if (take_value(rest, types[i], &params[i], e) < 0)
			return -1;
	return 0;
}

/* ---- sums ---- */

void transfer_sum_row(struct transfer_sum *s, uint8_t table, struct slice record)
{
	uint8_t md[EVP_MAX_MD_SIZE];

	if (EVP_Digest(record.p, record.n, md, NULL, EVP_sha256(), NULL) != 1)
		fatal("SHA-256 does not work");
	md[0] ^= table; /* the same columns in two tables are not the same row */
	for (size_t i = 0; i < 4; i++)
		s->lane[i] += number_at((const char *)md + i * INTEGER_BYTES, INTEGER_BYTES);
	s->rows++;
}

void transfer_sum_add(struct transfer_sum *s, const struct transfer_sum *more)
{
	for (size_t i = 0; i < 4; i++)
		s->lane[i] += more->lane[i];
	s->rows += more->rows;
}

void transfer_sum_subtract(struct transfer_sum *s, const struct transfer_sum *less)
{
	for (size_t i = 0; i < 4; i++)
		s->lane[i] -= less->lane[i];
	s->rows -= less->rows;
}

bool transfer_sum_eq(const struct transfer_sum *a, const struct transfer_sum *b)
{
	for (size_t i = 0; i < 4; i++)
		if (a->lane[i] != b->lane[i])
			return false;
	return a->rows == b->rows;
}

void transfer_sum_hex(const struct transfer_sum *s, char out[TRANSFER_SUM_HEX])
{
	for (size_t i = 0; i < 4; i++)
		snprintf(out + 16 * i, 17, "%016" PRIx64, s->lane[i]);
}
