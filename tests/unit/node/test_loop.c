#include "base/clock.h"
#include "node/net/loop.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

/* What happened, one letter each, in order. */
static char trace[64];
static struct loop *l;
static struct loop_timer *timer;

static void note(char what)
{
	size_t n = strlen(trace);

	if (n < sizeof trace - 1)
		trace[n] = what;
}

static int setup(void **state)
{
	(void)state;
	memset(trace, 0, sizeof trace);
	l = loop_new();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	loop_free(l);
	return 0;
}

static void on_a(void *arg)
{
	(void)arg;
	note('a');
}

static void on_b(void *arg)
{
	(void)arg;
	note('b');
}

static void on_last(void *arg)
{
	(void)arg;
	note('z');
}

static void on_deferred(void *arg)
{
	int *more = arg;

	note('d');
	if (more && (*more)--)
		loop_defer(l, on_deferred, more);
}

static void on_timer(void *arg)
{
	int *left = arg;

	note('t');
	if (left && --*left == 0)
		loop_timer_free(timer);
}

static void test_a_turn_has_its_order(void **state)
{
	int none = 0;

	(void)state;
	loop_on_turn_last(l, on_last, NULL);
	loop_on_turn_end(l, on_a, NULL);
	loop_on_turn_end(l, on_b, NULL);
	timer = loop_after(l, 0, on_timer, NULL);
	loop_defer(l, on_deferred, &none);
	loop_turn(l);
	if (!strchr(trace, 't')) /* the deferred call kept this turn from waiting for the timer */
		loop_turn(l);
	loop_timer_free(timer);
	assert_true(strcmp(trace, "tdabz") == 0 || strcmp(trace, "dabztabz") == 0);
}

static void test_deferring_again_does_not_wait(void **state)
{
	int more = 3;

	(void)state;
	loop_defer(l, on_deferred, &more);
	for (int i = 0; i < 4; i++)
		loop_turn(l); /* would hang if one of them waited: nothing else is due */
	assert_string_equal(trace, "dddd");
}

static void stop_and_del(void *arg)
{
	(void)arg;
	note('x');
	loop_hook_del(l, on_b, NULL);
	loop_stop(l);
	loop_again(l);
}

static void test_a_hook_can_be_deleted_by_another(void **state)
{
	(void)state;
	loop_on_turn_end(l, stop_and_del, NULL);
	loop_on_turn_end(l, on_b, NULL);
	loop_on_turn_end(l, on_a, NULL);
	loop_again(l);
	loop_run(l);
	loop_run(l);
	assert_string_equal(trace, "xaxa");
}

static void test_every_fires_until_freed_in_its_callback(void **state)
{
	int left = 3;
	uint64_t began_us = clock_us();

	(void)state;
	timer = loop_every(l, 5, on_timer, &left);
	while (left)
		loop_turn(l);
	assert_string_equal(trace, "ttt");
	assert_true(clock_us() - began_us >= 14000);
}

static void test_a_stopped_timer_stays_silent(void **state)
{
	struct loop_timer *other = loop_after(l, 1, on_a, NULL);

	(void)state;
	timer = loop_after(l, 20, on_b, NULL);
	loop_timer_stop(other);
	while (!trace[0])
		loop_turn(l);
	assert_string_equal(trace, "b");
	loop_timer_free(other);
	loop_timer_free(timer);
}

static uint64_t seen_ms[2];

static void on_clock(void *arg)
{
	uint64_t *out = arg;

	*out = clock_now_ms();
	usleep(3000);
}

static void test_time_stands_still_within_a_turn(void **state)
{
	(void)state;
	loop_defer(l, on_clock, &seen_ms[0]);
	loop_defer(l, on_clock, &seen_ms[1]);
	loop_turn(l);
	assert_int_equal(seen_ms[0], seen_ms[1]);
	loop_defer(l, on_clock, &seen_ms[1]);
	loop_turn(l);
	assert_true(seen_ms[1] > seen_ms[0]);
}

static void test_watch_and_signal(void **state)
{
	int fd = eventfd(1, EFD_NONBLOCK);
	struct loop_watch *w = loop_watch_read(l, fd, on_a, NULL);

	(void)state;
	loop_on_signal(l, SIGUSR1, on_b, NULL);
	loop_turn(l);
	assert_string_equal(trace, "a");
	loop_watch_pause(w);
	raise(SIGUSR1);
	while (strlen(trace) < 2)
		loop_turn(l);
	assert_string_equal(trace, "ab");
	loop_watch_free(w);
	close(fd);
}

static void defer_b(void *arg)
{
	note('d');
	loop_defer(l, on_b, arg);
}

/* At the end only what was deferred is done, and nothing begins. */
static void test_settling(void **state)
{
	int fd = eventfd(1, EFD_NONBLOCK);
	struct loop_watch *w = loop_watch_read(l, fd, on_a, NULL);

	(void)state;
	timer = loop_after(l, 0, on_a, NULL);
	loop_on_turn_end(l, on_a, NULL);
	loop_on_turn_last(l, on_last, NULL);
	loop_on_signal(l, SIGUSR1, on_a, NULL);
	raise(SIGUSR1);
	usleep(2000);
	loop_defer(l, defer_b, NULL);
	loop_settle(l);
	assert_string_equal(trace, "db");
	loop_timer_free(timer);
	loop_watch_free(w);
	close(fd);
}

static void on_usr1(int number)
{
	(void)number;
	note('u');
}

static void test_signals_are_given_back(void **state)
{
	(void)state;
	signal(SIGUSR1, on_usr1);
	loop_on_signal(l, SIGUSR1, on_a, NULL);
	loop_drop_signals(l);
	raise(SIGUSR1);
	signal(SIGUSR1, SIG_DFL);
	assert_string_equal(trace, "u");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_a_turn_has_its_order, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_deferring_again_does_not_wait, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_a_hook_can_be_deleted_by_another, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_every_fires_until_freed_in_its_callback, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_a_stopped_timer_stays_silent, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_time_stands_still_within_a_turn, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_watch_and_signal, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_settling, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_signals_are_given_back, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
