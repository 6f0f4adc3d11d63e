/* spread: how busy each of several processes is that accept from one inherited listening socket, in
 * memory they share, so that clients spread evenly over them: who has more connections than another
 * lets that one go first, for a moment. Made before the fork; then each process writes its own slot
 * and reads all. Any thread of any of them: the slots are atomic. */
#ifndef LEAT_NODE_SPREAD_H
#define LEAT_NODE_SPREAD_H

#include <stdbool.h>
#include <stddef.h>

enum { SPREAD_MAX = 64 }; /* processes */

struct spread;

struct spread *spread_new(void); /* fatal when there is no memory to share */
void spread_free(struct spread *s);

void spread_set(struct spread *s, unsigned slot, size_t connections); /* serving, with so many */
void spread_leave(struct spread *s, unsigned slot);                   /* serves no more */
bool spread_is_ahead(const struct spread *s, unsigned slot);          /* another has fewer */
bool spread_was_used(const struct spread *s);                         /* any has ever served */

#endif
