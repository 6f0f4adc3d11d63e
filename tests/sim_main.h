/* sim_main: the command line that the simulators share: a number of seeds as one cmocka test, or
 * one seed again, watched. */
#ifndef LEAT_TESTS_SIM_MAIN_H
#define LEAT_TESTS_SIM_MAIN_H

#include <stdbool.h>
#include <stdint.h>

struct sim_main {
	uint64_t seeds; /* without --seeds N */
	/* NULL, or which promise was broken; `watched`: says what happens as it goes. */
	const char *(*run_seed)(uint64_t seed, bool watched);
	void (*after)(
	        uint64_t seeds); /* all of them passed: did they try what they should? or NULL */
};

/* [--seed S | --seeds N | --seeds FIRST-LAST]: the exit status. */
int sim_main_run(const struct sim_main *which, int argc, char **argv);

#endif
