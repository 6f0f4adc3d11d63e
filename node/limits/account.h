/* account: the structures that limits.c, rates.c, sharing.c and telling.c share. Nobody else
 * includes it. Loop thread only. */
#ifndef LEAT_NODE_ACCOUNT_H
#define LEAT_NODE_ACCOUNT_H

#include "base/map.h"
#include "node/limits/limits.h"
#include "tenancy/bucket.h"

enum {
	LIMITS_TICK_MS = 100,
	ACCOUNT_TICKS = 10,        /* what was used is that of so many ticks: a second */
	ACCOUNT_WAIT_TICKS = 4,    /* who waited lately still counts as waiting */
	ACCOUNT_KEY = 4 + 8,       /* bytes: tenant id, subject hash */
	ACCOUNT_FORGET_MS = 2000,  /* what a peer said of traffic is worth nothing after it */
	ACCOUNT_REFRESH_MS = 5000, /* connections and subscriptions are told anew */
	ACCOUNT_ASKED_MS = 15000,  /* a peer that asked for usage is told so long */
	ACCOUNT_USAGE_MS = 10000,
	ACCOUNT_STOCK_MS = 1000,      /* the database is asked so often at most, */
	ACCOUNT_STOCK_FAR_MS = 10000, /* and so often while there is much room */
	ACCOUNT_STOCKS = 4,           /* for so many tenants at a time */
};

/* What a peer told. */
struct account_remote {
	struct id128 peer;
	uint64_t at_ms;
	struct peer_use use;
};

struct account_breach {
	uint64_t since_ms; /* wall clock: when this one began */
	uint64_t last_ms;  /* clock_now_ms(); 0 = never */
	uint64_t told_ms;  /* here or elsewhere */
};

TAILQ_HEAD(limits_guests, limits_guest);

/* How many of something are in the database, or on their way there from here. */
struct account_count {
	uint64_t used;
	uint64_t open;  /* of these: not known yet whether they are stored */
	uint64_t doubt; /* while the database is asked: the answer may have them, or not yet */
};

enum stock_kind { STOCK_SUBSCRIPTIONS, STOCK_SCHEDULED, STOCK_DEAD_LETTERS, STOCK_KINDS };

/* A tenant's: what the database has, as it was when it was last asked, and what was added here. */
struct account_stock {
	struct bus_stock last;
	struct account_count counts[STOCK_KINDS];
	struct limits_guests waiting; /* until it has been asked for the first time */
	uint64_t at_ms;               /* 0 = never */
	uint64_t unlinked;            /* connections by the reports, while some node has no link */
	bool wanted;                  /* something may have changed since */
	bool asked;                   /* the answer is on its way */
};

/* What this node moves of what the tenant published in SQL: to the rates it is one connection. */
struct account_moving {
	struct bucket events;
	struct bucket bytes;
	uint64_t events_now; /* in this tick */
	uint64_t bytes_now;
	uint64_t events_ring[ACCOUNT_TICKS];
	uint64_t bytes_ring[ACCOUNT_TICKS];
	bool waits;         /* more is there than may be moved */
	bool full;          /* all of it is held: there is no room in the storage */
	bool asks;          /* something is held until it is known how many are scheduled */
	uint32_t waits_for; /* ticks in which it still counts as waiting */
	uint32_t tick;      /* of the rings */
	uint32_t idle;      /* ticks since something was moved or waited */
};

struct account {
	char key[ACCOUNT_KEY];
	uint32_t tenant_id;
	uint64_t subject; /* 0 = the tenant's own */
	const struct tenant *tenant;
	struct account *whole;      /* a subject's: its tenant's */
	struct token_limits narrow; /* a subject's: of the last token it came with */
	char *name; /* of the subject; for those who are told. NULL = not known here */

	uint32_t guests;        /* connections here */
	uint32_t subscriptions; /* here */
	uint32_t holders;       /* subjects' accounts that point to it */
	struct account_remote *remotes;
	size_t n_remotes;

	/* rates */
	struct bucket events;
	struct bucket bytes;
	struct limits_guests waiting;
	uint32_t n_waiting;
	uint32_t peak_waiting;          /* in this tick */
	TAILQ_ENTRY(account) wait_link; /* on limits->waiting while somebody does */
	uint64_t events_now;            /* in this tick */
	uint64_t bytes_now;
	uint64_t events_ring[ACCOUNT_TICKS];
	uint64_t bytes_ring[ACCOUNT_TICKS];
	uint32_t waiting_ring[ACCOUNT_WAIT_TICKS];
	uint32_t tick;  /* of the rings */
	uint32_t awake; /* ticks since it became busy */
	uint32_t idle;  /* ticks since something passed or waited */

	struct account_moving *moving; /* NULL = there was nothing lately */

	bool busy;     /* on limits->busy: its tick does something */
	bool dirty;    /* the peers are to be told */
	uint32_t told; /* a bit a limit: since the last tick, for the peers */
	uint64_t asked_until_ms;
	TAILQ_ENTRY(account) busy_link;
	struct account_stock stock;
	struct account_breach breach[LIMIT_COUNT];
	uint64_t subjects_since_ms; /* a tenant's: what it was told of its subjects lately */
	uint32_t subjects_told;
	struct limits_guests watchers;
};

TAILQ_HEAD(account_list, account);

struct limits {
	struct limits_settings set;
	struct limits_stats stats;
	struct map accounts; /* key -> account */
	struct account_list busy;
	struct account_list waiting;
	size_t stocks; /* requests under way */
	struct loop_timer *ticker;
	struct loop_timer *room; /* the next bucket is open */
	uint64_t room_ms;        /* when that will be; UINT64_MAX = nobody waits */
	const struct peer_port *port;
	size_t live;   /* other nodes */
	size_t linked; /* of them */
	uint64_t refresh_ms;
	uint64_t usage_ms;
	struct peer_use *uses; /* being collected for the peers */
	size_t n_uses;
};

/* limits.c */
uint64_t account_allowed(const struct account *a, enum limit which); /* 0 = no limit */
/* NULL = there is none. */
struct account *account_find(const struct limits *l, uint32_t tenant_id, uint64_t subject);
/* subject 0: the tenant's own. NULL: there is no such tenant. */
struct account *account_get(struct limits *l, uint32_t tenant_id, uint64_t subject);
void account_free_if_unused(struct limits *l, struct account *a);
void account_touch(struct limits *l, struct account *a); /* its tick has something to do */

/* rates.c */
bool account_limited(const struct account *a); /* a rate of it is */
void account_set_rates(struct limits *l, struct account *a);
void account_roll(struct account *a);                       /* a tick is over */
uint64_t account_rate(const uint64_t ring[ACCOUNT_TICKS]);  /* thousandths a second */
uint32_t account_hunger(const struct account *a);           /* connections that wait, or just did */
void rates_leave(struct limits *l, struct limits_guest *g); /* it waits no more */
void rates_tick(struct limits *l);
void rates_resume(void *arg); /* the limits' timer: whose turn is it? */

/* moving.c; of an account without anything to move, too */
uint64_t moving_rate(const struct account *a, bool bytes); /* thousandths a second */
uint32_t moving_hunger(const struct account *a);           /* 1: it waits, or just did */
/* The buckets, from what is this node's part of the rate; what is left to the connections. */
uint64_t moving_set_rate(struct account *a, uint64_t part, bool bytes);
void moving_roll(struct account *a); /* a tick is over */

/* sharing.c */
uint64_t account_part(const struct limits *l, const struct account *a, uint64_t rate, bool bytes);
uint64_t account_used(const struct account *a, enum limit which); /* over all nodes */
void sharing_collect(struct limits *l, struct account *a);        /* into the next message */
void sharing_send(struct limits *l);
void sharing_forget(struct account *a, const struct id128 *peer);

/* stock.c */
void stock_want(struct limits *l, struct account *a); /* ask the database, by and by */
void stock_tick(struct limits *l, struct account *a);
bool stock_is_needed(const struct account *a); /* also when nobody is here: not to be forgotten */
/* How many there are of a limit that is counted in the database; 0 of any other. */
uint64_t stock_used(const struct account *a, enum limit which);

bool stock_is_known(const struct account *a, enum limit which);
/* Ask the database at once. false: there is none. */
bool stock_ask(struct limits *l, struct account *a);

/* How many more of them there may be. false: that is not known yet. */
bool stock_room(struct limits *l, struct account *a, enum limit which, uint64_t *room);
void stock_added(struct account *a, enum limit which, uint64_t n); /* they are stored */

/* telling.c */
void account_breached(struct limits *l, struct account *a, enum limit which, uint64_t used);
void telling_usage(struct limits *l, struct account *a);  /* to whoever watches */
void telling_untold(struct limits *l, struct account *a); /* the database has answered, or cannot */
bool account_remembers(const struct account *a);          /* it was told something lately */

#endif
