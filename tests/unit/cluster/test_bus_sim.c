/* The fault simulator without faults is a backend like the others, with two nodes. */
#include "base/log.h"
#include "cluster/sim.h"
#include "tests/bus_suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void pump(struct bus_env *env)
{
	sim_step(env->arg);
}

static void publish(struct bus_env *env, const struct batch *one)
{
	sim_publish(env->arg, one);
}

static void set_partitions(struct bus_env *env, uint32_t n)
{
	sim_set_partitions(env->arg, env->tenant_id, 4, n);
}

static int begin(void **state)
{
	struct bus_env *env = *state;

	env->tenant_id++;
	return 0;
}

int main(void)
{
	struct sim *sim = sim_new(1, &(struct sim_faults){0});
	struct bus_env env = {.pump = pump,
	                      .publish = publish,
	                      .set_partitions = set_partitions,
	                      .allows_all = true,
	                      .arg = sim};
	int failed;

	log_set_level(LOG_ERROR);
	env.bus = sim_bus_new(sim, "a");
	env.other = sim_bus_new(sim, "b");
	sim_run_for(sim, 1000);
	failed = env.bus->state != BUS_UP || env.other->state != BUS_UP;
	failed += bus_suite_run(&env, begin);
	env.bus->ops->free(env.bus);
	env.other->ops->free(env.other);
	sim_free(sim);
	return failed;
}
