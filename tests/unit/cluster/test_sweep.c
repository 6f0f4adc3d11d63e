/* Where the leader of the inbox looks, against a table that costs what an index costs: each row
 * that was ever deleted and not purged is met by who looks there. */
#include "cluster/sweep.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { IDS = 200000, LOOK_EVERY_MS = 20 };

static struct {
	bool visible[IDS + 1];
	uint64_t next; /* the next id */
	bool purged;   /* deleted rows are gone at once */
	uint64_t now_ms;
	uint64_t last_us; /* of the last look, all of it */
} table;

static void table_begin(bool purged)
{
	for (size_t i = 0; i <= IDS; i++)
		table.visible[i] = false;
	table.next = 1;
	table.purged = purged;
	table.now_ms = 1000000;
}

/* Half a microsecond for each id; found rows are moved. */
static uint64_t look_in(struct sweep *s, struct sweep_range r, uint64_t *rows)
{
	uint64_t upto = r.upto < table.next - 1 ? r.upto : table.next - 1;

	for (uint64_t id = r.above + 1; id <= upto; id++) {
		if (!table.visible[id])
			continue;
		table.visible[id] = false;
		sweep_saw(s, id);
		++*rows;
	}
	return 100 + (table.purged || upto < r.above ? 0 : (upto - r.above) / 2);
}

static uint64_t look(struct sweep *s)
{
	struct sweep_look l = sweep_next(s, table.now_ms);
	uint64_t rows = 0;
	uint64_t us = look_in(s, l.old, &rows);

	sweep_took(s, &l, us, rows);
	table.last_us = us;
	if (!sweep_empty(l.fresh)) {
		assert_true(l.fresh.above >= l.old.upto); /* nothing twice */
		table.last_us += look_in(s, l.fresh, &rows);
	}
	table.now_ms += LOOK_EVERY_MS;
	return rows;
}

static void commit(uint64_t id)
{
	table.visible[id] = true;
}

static void test_everything_while_it_is_quick(void **state)
{
	struct sweep s = {0};
	uint64_t late;

	(void)state;
	table_begin(true);
	late = table.next++;
	for (int i = 0; i < 1000; i++) {
		commit(table.next++);
		assert_int_equal(look(&s), 1);
	}
	commit(late);
	assert_int_equal(look(&s), 1);
}

/* Thousands of deleted rows in front: looks stay quick, what is new is found at once, what comes
 * late within a round. */
static void test_slices_when_it_is_slow(void **state)
{
	struct sweep s = {0};
	uint64_t late;
	uint64_t concurrent;
	int looks = 0;

	(void)state;
	table_begin(false);
	late = table.next++;
	while (table.next < IDS - 10000) {
		for (int i = 0; i < 900; i++)
			commit(table.next++);
		assert_int_equal(look(&s), 900);
	}
	for (int i = 0; i < 500; i++) { /* 10 s */
		concurrent = table.next++;
		commit(table.next++);
		assert_int_equal(look(&s), 1);
		commit(concurrent); /* its transaction took a little longer */
		assert_int_equal(look(&s), 1);
	}
	for (int i = 0; i < 100; i++) {
		commit(table.next++);
		assert_int_equal(look(&s), 1);
		assert_true(table.last_us < 10000);
	}
	commit(late);
	while (!look(&s))
		assert_true(++looks < 200); /* 4 s */
}

/* When the server has purged, each look is of everything again. */
static void test_it_recovers(void **state)
{
	struct sweep s = {0};
	uint64_t late;

	(void)state;
	table_begin(false);
	late = table.next++;
	while (table.next < 100000) {
		commit(table.next++);
		if (table.next % 500 == 0)
			look(&s);
	}
	for (int i = 0; i < 300; i++)
		look(&s);
	assert_true(s.width > 0);
	table.purged = true;
	for (int i = 0; i < 300; i++)
		look(&s);
	commit(late);
	assert_int_equal(look(&s), 1);
}

/* No id is left out for ever, wherever it is and whatever happens meanwhile. */
static void test_every_id_is_found(void **state)
{
	struct sweep s = {0};

	(void)state;
	table_begin(false);
	for (int round = 0; round < 200; round++) {
		uint64_t first = table.next;
		uint64_t pending[3];
		int looks = 0;
		uint64_t found = 0;

		for (int i = 0; i < 3; i++) {
			table.next += 300;
			pending[i] =
			        first + (uint64_t)i * 300 + (uint64_t)(round * 7 + i * 131) % 300;
		}
		for (uint64_t id = first; id < table.next; id++) {
			if (id != pending[0] && id != pending[1] && id != pending[2])
				commit(id);
		}
		while (found < 897) {
			found += look(&s);
			assert_true(++looks < 2000);
		}
		table.purged = round % 50 == 20;
		for (int i = 0; i < round; i++)
			look(&s);
		for (int i = 0; i < 3; i++)
			commit(pending[i]);
		while (found < 900) {
			found += look(&s);
			assert_true(++looks < 2000);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_everything_while_it_is_quick),
	        cmocka_unit_test(test_slices_when_it_is_slow),
	        cmocka_unit_test(test_it_recovers),
	        cmocka_unit_test(test_every_id_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
