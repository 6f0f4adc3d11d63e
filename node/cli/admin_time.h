/* admin_time: times as people write them on a command line, as the procedures read them. Pure; main
 * thread. */
#ifndef LEAT_NODE_ADMIN_TIME_H
#define LEAT_NODE_ADMIN_TIME_H

#include <stdbool.h>

enum { ADMIN_TIME_TEXT = 32 };

/* 2026-03-01T12:00:00Z as MySQL writes it, in UTC. False when it is no such time. */
bool admin_time(const char *text, char out[ADMIN_TIME_TEXT]);

#endif
