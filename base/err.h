/* err: what went wrong, for a caller who can handle it. Plain data, owned by the caller. Any
 * thread. Functions that take a struct err return 0 or -1 and fill it in only when they return -1.
 */
#ifndef LEAT_BASE_ERR_H
#define LEAT_BASE_ERR_H

struct err {
	int code;       /* meaning belongs to the module that set it; 0 where text is enough */
	char text[256]; /* for a person: what was wrong and what is allowed */
};

/* Fill in e (which may be NULL) and return -1, so that `return err_set(e, …);` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
