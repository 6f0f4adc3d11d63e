/* outcome: what became of a statement or transaction. Every call that reaches a database ends in
 * one of these; UNKNOWN is not failure. Plain data, any thread. */
#ifndef LEAT_SQL_OUTCOME_H
#define LEAT_SQL_OUTCOME_H

enum sql_outcome {
	SQL_OK,      /* done */
	SQL_DUP,     /* a row with this key is there already */
	SQL_RETRY,   /* nothing was stored; doing it again may work */
	SQL_LOST,    /* a fence did not match: session, owner or epoch is no longer ours */
	SQL_UNKNOWN, /* the connection went around COMMIT: stored, not stored, or yet to be stored
	              */
	SQL_FATAL,   /* refused; doing it again will not help */
};

static inline const char *sql_outcome_name(enum sql_outcome o)
{
	static const char *const names[] = {"ok", "dup", "retry", "lost", "unknown", "fatal"};

	return names[o];
}

#endif
