#include "tests/sim_main.h"

#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct sim_main *sim;
static uint64_t first = 1;
static uint64_t last;

static void test_seeds(void **state)
{
	(void)state;
	for (uint64_t seed = first; seed <= last; seed++) {
		const char *problem = sim->run_seed(seed, false);

		if (problem)
			fail_msg("%s", problem);
	}
	if (sim->after)
		sim->after(last - first + 1);
}

/* N, or FIRST-LAST */
static void set_seeds(const char *text)
{
	const char *dash = strchr(text, '-');

	if (dash)
		first = strtoull(text, NULL, 10);
	last = strtoull(dash ? dash + 1 : text, NULL, 10);
}

int sim_main_run(const struct sim_main *which, int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_seeds)};

	sim = which;
	last = sim->seeds;
	log_set_level(LOG_ERROR);
	if (argc == 3 && strcmp(argv[1], "--seed") == 0) {
		const char *problem = sim->run_seed(strtoull(argv[2], NULL, 10), true);

		puts(problem ? problem : "every promise was kept");
		return problem != NULL;
	}
	if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
		set_seeds(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
