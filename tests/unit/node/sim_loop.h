/* sim_loop: node/net/loop.h in the virtual time of the fault simulator. A program that links this
 * before the archives gets these functions instead of libevent's. One simulation at a time. */
#ifndef LEAT_TESTS_UNIT_NODE_SIM_LOOP_H
#define LEAT_TESTS_UNIT_NODE_SIM_LOOP_H

#include "cluster/sim.h"

#include <stdint.h>

void sim_loop_begin(struct sim *s); /* loops made from now on run in it */
void sim_loop_run_for(uint64_t ms); /* a turn of every loop after each step */
void sim_loop_turn(void);           /* what is deferred now, and the hooks */
void sim_loop_early(uint32_t ms);   /* timers fire so much before their time, as real ones may */
void sim_loop_end(void);            /* after sim_free */

#endif
