/* writer: one journal writer of a node. It takes a flush (a list of sealed batches), sees it
 * through whatever the database answers, and reports each batch exactly once: stored or refused.
 * Nothing else in Leat calls the bus's append or resolve. Loop thread only.
 *
 * RETRY: the same flush again after a short, growing, jittered pause, from the second time on split
 * by tenant. UNKNOWN: bus_resolve until it answers, then report or repeat. FATAL: bisected, by
 * tenant, by batch, by event, until the culprit alone is refused. LOST or BUS_DOWN: waits for the
 * next BUS_UP (a new session starts with the writer state it brings; an UNKNOWN flush of an ended
 * session is resolved in the old session's writer row first) and goes on; publishers are held by
 * backpressure meanwhile, and never answered falsely. */
#ifndef LEAT_CLUSTER_WRITER_H
#define LEAT_CLUSTER_WRITER_H

#include "cluster/batch.h"
#include "cluster/bus.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct writer;

struct writer_events {
	/* Committed. base_seq is set, or 0 when only the fact is known (after UNKNOWN): readers
	 * then read the partition from the journal. The reference is the callee's. */
	void (*on_stored)(void *arg, struct batch *take);
	/* The same flush, before its batches are reported: they are committed under this number, in
	 * the bus's present session, and all base_seq are set. Not called when only the fact is
	 * known. Borrowed. NULL = not wanted. */
	void (*on_flushed)(void *arg, uint32_t writer_no, uint64_t flush_no,
	                   struct batch *const *batches, size_t n);
	/* Refused for good; `reason` says why, without data. The reference is the callee's. */
	void (*on_refused)(void *arg, struct batch *take, const char *reason);
	/* Not stored, and never will be: its partition is sealed, its events go to `layout` now.
	 * Batches of one partition come in publishing order. The reference is the callee's. */
	void (*on_sealed)(void *arg, struct batch *take, struct layout layout);
	/* The flush is over: the next may be given (also from inside this call). */
	void (*on_idle)(void *arg, uint32_t writer_no);
	/* Call fn(fn_arg) on the loop after delay_ms, once: the writer owns no timer of its own. */
	void (*after)(void *arg, uint32_t delay_ms, void (*fn)(void *), void *fn_arg);
	void *arg;
};

struct writer *writer_new(struct bus *bus, uint32_t writer_no, const struct writer_events *events);
void writer_free(struct writer *w); /* batches still in hand are dropped unanswered (shutdown) */

bool writer_busy(const struct writer *w);
/* Begin a flush: n batches sorted as bus_append wants them, within its bounds. Takes the
 * references, not the array. The writer must not be busy. */
void writer_flush(struct writer *w, struct batch *const *take, size_t n);
void writer_on_state(struct writer *w, enum bus_state state); /* the owner passes on_state on */

#endif
