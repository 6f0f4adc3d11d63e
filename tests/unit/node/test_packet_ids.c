/* The packet ids of one session, by themselves. */
#include "node/delivery/packet_ids.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static char place_bytes;
static struct place *const pl = (struct place *)&place_bytes;

static void test_each_is_given_once(void **state)
{
	struct packet_ids ids = {0};
	static bool taken[UINT16_MAX + 1];

	(void)state;
	for (uint32_t i = 0; i < UINT16_MAX; i++) {
		uint16_t id;

		assert_true(packet_ids_left(&ids));
		id = packet_ids_take(&ids, pl, i + 1);
		assert_int_not_equal(id, 0); /* no packet has it [MQTT-2.2.1-3] */
		assert_false(taken[id]);
		taken[id] = true;
		assert_int_equal(packet_ids_find(&ids, id)->seq, i + 1);
	}
	assert_false(packet_ids_left(&ids));
	packet_ids_free(&ids, 40000);
	assert_null(packet_ids_find(&ids, 40000));
	assert_int_equal(packet_ids_take(&ids, pl, 7), 40000);
	packet_ids_release(&ids);
}

static void test_unknown(void **state)
{
	struct packet_ids ids = {0};

	(void)state;
	assert_null(packet_ids_find(&ids, 1));
	assert_int_equal(packet_ids_take(&ids, pl, 1), 1);
	assert_null(packet_ids_find(&ids, 0));
	assert_null(packet_ids_find(&ids, 2));
	assert_null(packet_ids_find(&ids, UINT16_MAX));
	packet_ids_release(&ids);
}

/* The client may still answer it: it is another's only when it has, or cannot any more. */
static void test_void_stays_taken(void **state)
{
	struct packet_ids ids = {0};
	uint16_t id = packet_ids_take(&ids, pl, 5);

	(void)state;
	packet_ids_void(&ids, id);
	assert_non_null(packet_ids_find(&ids, id));
	assert_null(packet_ids_find(&ids, id)->place);
	for (int i = 0; i < 100; i++)
		assert_int_not_equal(packet_ids_take(&ids, pl, 6), id);
	packet_ids_free_void(&ids);
	assert_null(packet_ids_find(&ids, id));
	assert_int_equal(ids.n_used, 100);
	packet_ids_release(&ids);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_each_is_given_once),
	        cmocka_unit_test(test_unknown),
	        cmocka_unit_test(test_void_stays_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
