/* The file of a tenant's transfer: what was written is read, and nothing else is. */
#include "sql/schema.h"
#include "sql/transfer_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/leat-transfer-XXXXXX";

static int setup(void **state)
{
	(void)state;
	strcpy(path + strlen(path) - 6, "XXXXXX");
	return close(mkstemp(path));
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

/* ---- records ---- */

static void test_record(void **state)
{
	const struct sql_cell cells[] = {{.u = UINT64_MAX},
	                                 {.null = true},
	                                 {.bytes = slice("a\0b", 3)},
	                                 {.bytes = slice("", 0)}};
	struct sql_param p[4];
	struct buf b = {0};
	struct slice rest;
	struct err e;

	(void)state;
	transfer_record_put(&b, "uubt", cells);
	transfer_record_put(&b, "uubt", cells);
	rest = buf_slice(&b);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(transfer_record_take(&rest, "uubt", p, &e), 0);
		assert_true(p[0].type == SQL_TYPE_U64 && p[0].u == UINT64_MAX);
		assert_int_equal(p[1].type, SQL_TYPE_NULL);
		assert_true(p[2].type == SQL_TYPE_BYTES && slice_eq(p[2].bytes, slice("a\0b", 3)));
		assert_true(p[3].type == SQL_TYPE_TEXT && p[3].bytes.n == 0);
	}
	assert_int_equal(rest.n, 0);
	for (size_t n = 0; n < b.len / 2; n++) { /* cut off anywhere */
		rest = slice(b.data, n);
		assert_int_equal(transfer_record_take(&rest, "uubt", p, &e), -1);
	}
	rest = buf_slice(&b);
	assert_int_equal(transfer_record_take(&rest, "tubt", p, &e), -1);
	assert_non_null(strstr(e.text, "not of its type"));
	buf_release(&b);
}

static void test_sum(void **state)
{
	struct transfer_sum ab = {0}, ba = {0}, a = {0}, b = {0};
	char hex[TRANSFER_SUM_HEX];

	(void)state;
	transfer_sum_row(&ab, 1, slice_str("a"));
	transfer_sum_row(&ab, 2, slice_str("b"));
	transfer_sum_row(&b, 2, slice_str("b"));
	transfer_sum_row(&a, 1, slice_str("a"));
	ba = b;
	transfer_sum_add(&ba, &a);
	assert_true(transfer_sum_eq(&ab, &ba));
	transfer_sum_subtract(&ba, &b);
	assert_true(transfer_sum_eq(&ba, &a));
	transfer_sum_row(&b, 1, slice_str("a"));
	b.lane[0]++;
	assert_false(transfer_sum_eq(&ab, &b));
	a = (struct transfer_sum){0};
	transfer_sum_row(&a, 2, slice_str("a")); /* the same columns of another table */
	assert_false(transfer_sum_eq(&a, &ba));
	transfer_sum_hex(&ba, hex); /* SHA-256 of "a", whose first byte is 0xca, of table 1 */
	assert_string_equal(hex,
	                    "cb978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
}

static void test_tables(void **state)
{
	(void)state;
	for (unsigned i = 0; i < transfer_table_count(); i++) {
		const struct transfer_table *t = transfer_table_at(i);

		assert_ptr_equal(transfer_table_of(t->number), t); /* numbers are not given twice */
		assert_true(strlen(t->types) <= TRANSFER_COLUMNS_MAX);
		assert_true(t->number != TRANSFER_BEGIN && t->number < TRANSFER_SEAL);
	}
	assert_string_equal(transfer_table_of(TRANSFER_JOURNAL)->name, "journal");
	assert_string_equal(transfer_table_of(TRANSFER_KEYS)->name, "tenant_key");
	assert_string_equal(transfer_table_of(TRANSFER_CERTIFICATES)->name, "client_certificate");
	assert_null(transfer_table_of(TRANSFER_END));
}

/* ---- no table and no column of a tenant is forgotten ---- */

static const struct {
	const char *table, *put;
} carried[] = {
#define TRANSFER(table, number, types, columns, from, put, marks, rows) {#table, put marks},
#define TRANSFER_LEFT_OUT(table, why) {#table, NULL},
#include "sql/transfer.def"
#undef TRANSFER_LEFT_OUT
#undef TRANSFER
};

/* Ids that a database counts, who has it now, and what is given to an import. */
static const char *const not_carried[] = {
        "tenant.tenant_id",
        "tenant.name",
        "tenant.name_text",
        "tenant.state",
        "tenant.full_since", /* retention finds it out anew */
        "subscription.subscription_id",
        "subscription.owner",
        "cursors.owner",
        "timer.timer_id",
        "timer.session_id",
        "schedule.schedule_id",
        "inbox.inbox_id",
        "dead_letter.dead_letter_id",
        "subscription.settlements",
        "inbox.bytes", /* computed */
};

static bool is_word_of(const char *text, struct slice word)
{
	for (const char *p = text; (p = strstr(p, word.p)); p++)
		if ((p == text || !strchr("abcdefghijklmnopqrstuvwxyz_", p[-1])) &&
		    !strchr("abcdefghijklmnopqrstuvwxyz_", p[word.n]))
			return true;
	return false;
}

static void check_column(const char *table, const char *put, const char *column)
{
	char name[128];

	snprintf(name, sizeof name, "%s.%s", table, column);
	for (size_t i = 0; i < sizeof not_carried / sizeof *not_carried; i++)
		if (strcmp(name, not_carried[i]) == 0)
			return;
	if (!is_word_of(put, slice_str(column)))
		fail_msg("%s does not go with its tenant: put it into sql/transfer.def", name);
}

static void check_purge(const char *table)
{
	struct slice step = schema_step(4).text; /* 0004_procedures.sql */
	char *text = strndup(step.p, step.n), want[128];
	const char *purge = strstr(text, "CREATE PROCEDURE tenant_purge_step(");

	assert_non_null(purge);
	snprintf(want, sizeof want, "DELETE FROM %s WHERE ", table);
	if (!strstr(purge, want) && strcmp(table, "tenant") != 0 && strcmp(table, "audit") != 0)
		fail_msg("tenant_purge_step leaves %s", table);
	free(text);
}

/* From behind "CREATE TABLE IF NOT EXISTS ": a line a column, two spaces before it. */
static void check_table(const char *text)
{
	char table[64], word[64], type[16];
	const char *end = strstr(text, "\n) ");
	const char *tenant = strstr(text, "\n  tenant_id ");
	size_t i = 0;

	assert_int_equal(sscanf(text, "%63[a-z_]", table), 1);
	assert_non_null(end);
	if (!tenant || tenant > end)
		return;
	check_purge(table);
	while (i < sizeof carried / sizeof *carried && strcmp(carried[i].table, table) != 0)
		i++;
	if (i == sizeof carried / sizeof *carried)
		fail_msg("%s has a tenant_id: name it in sql/transfer.def", table);
	for (const char *p = text; carried[i].put && p && p < end; p = strchr(p + 1, '\n'))
		if (sscanf(p, "\n  %63[a-z_0-9] %15[A-Z]", word, type) == 2)
			check_column(table, carried[i].put, word);
}

static void test_nothing_is_forgotten(void **state)
{
	unsigned tables = 0;

	(void)state;
	for (unsigned v = 1; v <= schema_latest(); v++) {
		struct slice text = schema_step(v).text;
		char *copy = strndup(text.p, text.n);

		for (const char *p = copy; (p = strstr(p, "CREATE TABLE IF NOT EXISTS "));
		     tables++) {
			p += strlen("CREATE TABLE IF NOT EXISTS ");
			check_table(p);
		}
		free(copy);
	}
	assert_true(tables > 15);
}

/* ---- the file ---- */

enum { CHUNKS = 4 };

static void payload_of(unsigned i, struct buf *b)
{
	buf_clear(b);
	for (unsigned n = 0; n < i * 1000; n++)
		buf_u8(b, (uint8_t)(n * 7 + i));
}

static void write_chunks(unsigned from, unsigned to)
{
	struct transfer_file *f = transfer_file_open(path, true, NULL);
	struct transfer_chunk c;
	struct buf b = {0};

	assert_non_null(f);
	while (transfer_file_next(f, &c, NULL, NULL) > 0) {
	}
	assert_int_equal(transfer_file_truncate(f, NULL), 0);
	for (unsigned i = from; i < to; i++) {
		c = (struct transfer_chunk){.kind = TRANSFER_JOURNAL,
		                            .rows = i,
		                            .partition = i + 1,
		                            .first = i + 2,
		                            .next = UINT64_MAX - i,
		                            .sum = {.lane = {i, 2, 3, 4}, .rows = i}};
		payload_of(i, &b);
		assert_int_equal(transfer_file_append(f, &c, buf_slice(&b), NULL), 0);
	}
	buf_release(&b);
	transfer_file_close(f);
}

/* How many whole chunks it has; -1: one is damaged. */
static int read_chunks(struct err *e)
{
	struct transfer_file *f = transfer_file_open(path, false, NULL);
	struct buf want = {0}, got = {0};
	struct transfer_chunk c;
	int rc, n = 0;

	assert_non_null(f);
	while ((rc = transfer_file_next(f, &c, &got, e)) > 0) {
		unsigned i = (unsigned)n++;

		payload_of(i, &want);
		assert_true(slice_eq(buf_slice(&got), buf_slice(&want)));
		assert_true(c.number == i && c.rows == i && c.partition == i + 1);
		assert_true(c.first == i + 2 && c.next == UINT64_MAX - i && c.bytes == i * 1000);
		assert_true(c.sum.lane[0] == i && c.sum.lane[3] == 4 && c.sum.rows == i);
	}
	buf_release(&want);
	buf_release(&got);
	transfer_file_close(f);
	return rc < 0 ? -1 : n;
}

static struct buf file_bytes(void)
{
	struct buf b = {0};
	int fd = open(path, O_RDONLY);
	ssize_t n;

	buf_grow(&b, 1 << 16);
	n = read(fd, b.data, b.cap);
	assert_true(n > 0);
	b.len = (size_t)n;
	close(fd);
	return b;
}

static void set_bytes(const char *p, size_t n)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	assert_int_equal(write(fd, p, n), n);
	close(fd);
}

static void test_file(void **state)
{
	struct err e;

	(void)state;
	write_chunks(0, CHUNKS);
	assert_int_equal(read_chunks(&e), CHUNKS);
}

/* Wherever it ends, the whole chunks are there, and it can be gone on with to the same bytes. */
static void test_cut_off(void **state)
{
	struct buf whole, now;
	struct err e;

	(void)state;
	write_chunks(0, CHUNKS);
	whole = file_bytes();
	for (size_t n = 0; n < whole.len; n += 97) {
		int have;

		set_bytes(whole.data, n);
		have = read_chunks(&e);
		assert_in_range(have, 0, CHUNKS - 1);
		write_chunks((unsigned)have, CHUNKS);
		now = file_bytes();
		assert_true(slice_eq(buf_slice(&whole), buf_slice(&now)));
		buf_release(&now);
	}
	buf_release(&whole);
}

/* No byte can change unnoticed. */
static void test_flipped(void **state)
{
	struct buf b;
	struct err e;

	(void)state;
	write_chunks(0, CHUNKS);
	b = file_bytes();
	for (size_t i = 0; i < b.len; i += i % 5 + 1) {
		b.data[i] = (char)(b.data[i] ^ 0x10);
		set_bytes(b.data, b.len);
		assert_int_equal(read_chunks(&e), -1);
		if (i > (size_t)TRANSFER_HEADER)
			assert_non_null(strstr(e.text, "is damaged"));
		b.data[i] = (char)(b.data[i] ^ 0x10);
	}
	buf_release(&b);
}

/* Nor a chunk be left out, though each is good by itself. */
static void test_left_out(void **state)
{
	size_t two = 2 * TRANSFER_HEADER + 1000;
	size_t three = two + TRANSFER_HEADER + 2000;
	struct buf b;
	struct err e;

	(void)state;
	write_chunks(0, CHUNKS);
	b = file_bytes();
	memmove(b.data + two, b.data + three, b.len - three);
	set_bytes(b.data, b.len - (three - two));
	assert_int_equal(read_chunks(&e), -1);
	assert_non_null(strstr(e.text, "chunk 2 is damaged: it is another one"));
	buf_release(&b);
}

static void test_one_writer(void **state)
{
	struct transfer_file *f = transfer_file_open(path, true, NULL);
	struct err e;

	(void)state;
	assert_null(transfer_file_open(path, true, &e));
	assert_non_null(strstr(e.text, "another export writes it"));
	transfer_file_close(f);
	assert_null(transfer_file_open("/tmp", false, &e));
	assert_non_null(strstr(e.text, "no regular file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_record),
	        cmocka_unit_test(test_sum),
	        cmocka_unit_test(test_tables),
	        cmocka_unit_test(test_nothing_is_forgotten),
	        cmocka_unit_test_setup_teardown(test_file, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_cut_off, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_flipped, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_left_out, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_one_writer, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
