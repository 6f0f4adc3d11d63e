/* point: named places in the code where the fault tests end or stop the process:
 * LEAT_POINT=NAME:N:kill (or :stop) does it at the Nth time a thread passes the place; several,
 * with commas between, take their turns, each counting from when the one before it was met.
 * LEAT_POINT_LOG=FILE writes down which places were passed, each once. A build with
 * -DLEAT_SEEDED_BUGS has them; in every other they are nothing. Any thread.
 *
 * Every SQL statement is a place of its own, "before NAME" (its name in sql/statements.def, or
 * TEXT), and every transaction ends in two: "commit NAME" and "committed NAME", NAME being the last
 * statement before it. So a step that is added is a place without anybody naming it. */
#ifndef LEAT_BASE_POINT_H
#define LEAT_BASE_POINT_H

#ifdef LEAT_SEEDED_BUGS
void point_pass(const char *name);
void point_statement(const char *name); /* this thread is about to run it */
void point_commit(const char *when);    /* "commit", "committed": after that statement */
#define POINT(name) point_pass(name)
#define POINT_STATEMENT(name) point_statement(name)
#define POINT_COMMIT(when) point_commit(when)
#else
#define POINT(name) ((void)0)
#define POINT_STATEMENT(name) ((void)0)
#define POINT_COMMIT(when) ((void)0)
#endif

#endif
