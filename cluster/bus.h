/* bus: what dispatch and the protocols need from a backend, as an interface with two
 * implementations: `sql` (cluster/bus_sql.h: MySQL or MariaDB, durable) and `memory`
 * (cluster/bus_memory.h: one process, nothing kept; also the fault simulator).
 *
 * Every call is asynchronous: the caller fills in a request, hands it over and keeps it until
 * req->done(req) is called on the loop thread: exactly once, never before the call returned, also
 * at shutdown. The results are in the request then, `outcome` first. Loop thread only.
 *
 * Outcomes (sql/outcome.h): OK; DUP already there; RETRY nothing was stored, try again; LOST a
 * fence did not match: the state behind it is no longer ours, drop it; UNKNOWN it may have been
 * stored, or may yet be: only bus_resolve (appends) or a claim with a new epoch (cursors) tells;
 * FATAL refused, trying again will not help.
 *
 * Generations: when any connection to the database is lost, everything that was read or claimed
 * through it is void. The bus calls on_state(BUS_DOWN); requests made before complete with RETRY or
 * UNKNOWN, and the owner drops tails and delivery state and claims its subscriptions anew. */
#ifndef LEAT_CLUSTER_BUS_H
#define LEAT_CLUSTER_BUS_H

#include "base/id128.h"
#include "base/slice.h"
#include "cluster/batch.h"
#include "cluster/layout.h"
#include "sql/outcome.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	BUS_WRITERS = 2,           /* journal writers per node; a head always uses the same one */
	BUS_FLUSH_MAX_HEADS = 100, /* per append */
	BUS_FLUSH_MAX_BYTES = 1 << 20, /* per append; a single larger event goes alone */
	BUS_CURSORS_MAX = 500,         /* rows per cursor commit */
	BUS_HEADS_MAX = 500,           /* per look at the heads */
	BUS_NAME_MAX = 255,            /* bytes of a subject or a subscription name */
	BUS_AHEAD_MAX = 4096,          /* bytes of an encoded acked_ahead */
	BUS_ADDR_MAX = 255,            /* bytes of a node's peer address, HOST:PORT */
	BUS_FAILURES_MAX = 100,        /* failures and timer ids per settle */
	BUS_REASON_MAX = 255,          /* bytes of a failure's reason */
	BUS_RETRIES_MAX = 100,         /* rows with their events per bus_retries */
	BUS_RETRIES_KNOWN_MAX = 2000,  /* timer ids of rows that the caller has */
	BUS_RETAIN_MAX = 500,          /* batches per step of retention */
	BUS_REPORT_MAX = 500,          /* tenants per report */
	BUS_INBOX_WAITING_MAX = 10000, /* waiting rows that are counted */
};

/* The writer rows of a session that no append uses. */
enum {
	WRITER_NO_READER = BUS_WRITERS, /* reads confirm themselves with it */
	WRITER_NO_LEADER,               /* what is done in a role, */
	WRITER_NO_INBOX,                /* but for that of the inbox */
};

/* Another node, as its session's row names it. */
struct bus_peer {
	struct id128 session_id;
	char addr[BUS_ADDR_MAX + 1]; /* HOST:PORT of its peer listener; "" = it has none */
};

/* ---- append: one flush, one transaction ---------------------------------------------------------
 */

struct bus_append {
	enum sql_outcome outcome;
	void (*done)(struct bus_append *);
	void *arg; /* the caller's */

	uint32_t writer_no;
	uint64_t flush_no;      /* this flush's number: the writer's last stored one + 1 */
	uint64_t fence;         /* the writer's fence as last known */
	size_t n;               /* batches, 1.. */
	struct batch **batches; /* sealed; sorted by (tenant, partition), several of one head in
	                         * their publishing order. Base_seq and stamp are set when OK. */
	size_t culprit;  /* FATAL: index of the batch the database refused, SIZE_MAX unknown */
	char error[160]; /* FATAL: the database's words, without data */
	/* FATAL, not 0: a head of this tenant is sealed or gone, and its events go to `layout` now.
	 * Nothing was stored; what was meant for partitions before it has to be placed anew. */
	uint32_t sealed_tenant;
	struct layout layout;
};

/* What became of an append whose outcome was UNKNOWN: raises the fence (a write, so a late COMMIT
 * of the old flush comes before it or not at all), then reads the number of the last stored flush.
 * Works on the row of an ended session too. */
struct bus_resolve {
	enum sql_outcome
	        outcome; /* OK, RETRY (ask again), LOST (no such writer: nobody can tell) */
	void (*done)(struct bus_resolve *);
	void *arg;

	struct id128 session_id; /* the session the append was made in */
	uint32_t writer_no;
	uint64_t fence;    /* in: as last known; out: the new one */
	uint64_t flush_no; /* out: last stored flush */
};

/* ---- read ---------------------------------------------------------------------------------------
 */

/* Batches of one partition from from_seq on (the first may begin before it), in order and without a
 * hole; one at the front means retention took the events. Only confirmed batches are returned:
 * where the read went past confirmed_seq, the backend makes a commit of its own after it and before
 * it answers, so that nothing is handed out that a crash of the server could take back. */
struct bus_read {
	enum sql_outcome outcome;
	void (*done)(struct bus_read *);
	void *arg;

	uint32_t tenant_id;
	uint32_t partition_id;
	uint64_t from_seq;
	uint64_t confirmed_seq; /* everything below it is known to be durable */
	size_t max_bytes;       /* stop after the batch that reaches it */

	size_t n; /* out */
	struct batch *
	        *batches;  /* out: one reference each; they and the array become the caller's */
	uint64_t next_seq; /* out: the head's next number, confirmed */
};

/* Where a position is in a partition. */
enum bus_position {
	BUS_AT_HEAD,     /* next_seq: only what comes after now */
	BUS_AT_EARLIEST, /* the first event that retention has left */
	BUS_AT_TIME,     /* the first batch with appended_at >= time_ms */
};

struct bus_locate {
	enum sql_outcome outcome;
	void (*done)(struct bus_locate *);
	void *arg;

	uint32_t tenant_id;
	uint32_t partition_id;
	enum bus_position position;
	uint64_t time_ms; /* BUS_AT_TIME: milliseconds since 1970, UTC */
	uint64_t seq;     /* out: number of the first event wanted; >= 1 */
};

/* A tenant's heads from one on, as they are confirmed to be: what its readers go through. */
struct bus_layouts {
	enum sql_outcome outcome;
	void (*done)(struct bus_layouts *);
	void *arg;

	uint32_t tenant_id;
	uint32_t from_partition;
	size_t n; /* out; 0 = there is nothing but one layout, as far as is known */
	struct layout_head *heads; /* out: by partition; the caller's, free() */
};

/* How far the heads of many partitions have got, as anyone can see them: what is below next_seq may
 * not be durable yet. Asked after on_others_stored. */
struct bus_head {
	uint32_t tenant_id;
	uint32_t partition_id;
	uint64_t next_seq; /* out; 0 = there is no such head */
};

struct bus_heads {
	enum sql_outcome outcome;
	void (*done)(struct bus_heads *);
	void *arg;

	size_t n;               /* 1..BUS_HEADS_MAX */
	struct bus_head *heads; /* the caller's */
};

/* ---- subscriptions: one owner at a time ---------------------------------------------------------
 */

enum bus_sub_kind {
	BUS_SUB_SESSION = 1, /* an MQTT session's plain filters; name = client id, of one subject */
	BUS_SUB_SHARE = 2,   /* $share/NAME/FILTER; subject empty, name = "NAME/FILTER" */
	BUS_SUB_QUEUE = 3,   /* $queue/NAME; subject empty, name = NAME */
};

/* What becomes of an event that a queue's consumers fail to process. */
struct bus_policy {
	uint32_t max_attempts;   /* deliveries of one event; after the last it is a dead letter */
	uint32_t ack_timeout_ms; /* a consumer that holds an event longer is cut off */
	uint32_t backoff_ms;     /* pause after the first failed attempt; doubles with each */
	uint32_t backoff_max_ms; /* up to this */
	uint32_t max_failed;     /* events waiting to be tried again; at this the cursor waits */
	bool ordered;            /* per key: a failing event holds back the later ones of its key */
	bool pin;                /* retention waits for it: publishes are refused at the limit */
};

#define BUS_POLICY_DEFAULT                             \
	((struct bus_policy){.max_attempts = 10,       \
	                     .ack_timeout_ms = 30000,  \
	                     .backoff_ms = 1000,       \
	                     .backoff_max_ms = 600000, \
	                     .max_failed = 1000})

struct bus_cursor {
	uint32_t partition_id;
	uint64_t acked_through; /* events up to here are done; a new cursor begins at start - 1 */
	uint64_t commit_no;     /* of the last commit; each raises it by one */
	struct slice
	        acked_ahead; /* encoded ranges (cluster/ranges.h) done ahead of acked_through */
	/* Of what is done, [gap_from, gap_to) went undelivered, and it is not known that a consumer
	 * was told so. 0, 0 = nothing; so begins a new cursor. */
	uint64_t gap_from;
	uint64_t gap_to;
};

/* Take a subscription: create its row if asked, become its owner with epoch + 1, read its cursors.
 */
struct bus_claim {
	enum sql_outcome
	        outcome; /* OK; LOST a live node owns it, or it is paused; FATAL absent and
	                    not to be created, or the database refuses (its disk is full) */
	void (*done)(struct bus_claim *);
	void *arg;

	uint32_t tenant_id;
	enum bus_sub_kind kind;
	struct slice subject; /* subject, name, filters, starts: the caller's until done */
	struct slice name;
	bool create;          /* make it if it is not there */
	bool fresh;           /* Clean Start: an old one's cursors and filters are dropped first */
	bool force;           /* take it from a live owner too: its client is here now */
	uint32_t expiry_s;    /* kept seconds after its last consumer left; UINT32_MAX = for ever */
	struct slice filters; /* JSON text; stored when created or fresh */
	uint32_t n_starts;    /* cursors to make when created or fresh */
	const struct bus_cursor *starts;
	struct bus_policy policy; /* in: stored when created; out: what is stored. Queues only */

	struct bus_peer holder; /* out, LOST: the live node that owns it; zero = it is paused */
	bool absent;            /* out, FATAL: there is none of this name */
	bool created;           /* out; true also when fresh dropped an old one */
	char error[160];        /* out, FATAL and not absent: the database's words, without data */
	uint64_t subscription_id;
	uint64_t epoch;
	uint32_t stored_expiry_s;
	uint32_t n_cursors;
	struct slice stored_filters; /* this and cursors live until bus_claim_release() */
	struct bus_cursor *cursors;
	void *memory; /* the backend's: what the results point to */
};

/* Change a subscription this node owns; every verb checks owner and epoch in its own statement. */
enum bus_change_verb {
	BUS_CHANGE_FILTERS, /* store filters and expiry_s; make those cursors in starts that are
	                       missing */
	BUS_CHANGE_LAYOUT,  /* it has finished a layout: `starts` are its cursors now, of the next
	                       one, and those of partitions before them are no more */
	BUS_CHANGE_RELEASE, /* give up ownership: its last consumer left idle_s ago, it expires
	                       expiry_s after that. OK, too, when that was done in this epoch */
	BUS_CHANGE_DELETE,  /* remove the subscription and its cursors */
};

struct bus_change {
	enum sql_outcome outcome; /* OK, RETRY, UNKNOWN, LOST (not ours any more), FATAL */
	enum bus_change_verb verb;
	void (*done)(struct bus_change *);
	void *arg;

	uint32_t tenant_id;
	uint32_t expiry_s;
	uint64_t subscription_id;
	uint64_t epoch;
	struct slice filters; /* the caller's until done, as starts */
	const struct bus_cursor *starts;
	uint32_t n_starts;
	uint32_t idle_s; /* RELEASE only; <= expiry_s */
};

/* Commit cursors of any number of subscriptions in one transaction. A row that does not match
 * (owner, epoch, commit_no) is marked fenced and the others stand. */
struct bus_cursor_row {
	uint32_t tenant_id;
	uint64_t subscription_id;
	uint64_t epoch;
	struct bus_cursor to; /* commit_no: the one to match; stored + 1 */
	bool fenced;          /* out: did not match: drop this subscription's state */
};

struct bus_commit {
	enum sql_outcome
	        outcome; /* OK (look at fenced), RETRY, UNKNOWN, LOST (session ended), FATAL */
	void (*done)(struct bus_commit *);
	void *arg;

	size_t n; /* 1..BUS_CURSORS_MAX, sorted by tenant, subscription, partition */
	struct bus_cursor_row *rows; /* the caller's, acked_ahead bytes included, until done */
};

/* Settle deliveries of one subscription that need more than a cursor: events whose attempt failed
 * move into the timer table (to be tried again) or become dead letters, events that came from there
 * are done or moved again, and its cursors move past them: one transaction, fenced by owner and
 * epoch, or nothing. A timer row that is gone was removed by an admin, or by the same request
 * before its outcome became known: it is passed over. */
enum bus_failure_kind {
	BUS_FAILED_RETRY,  /* again after delay_ms */
	BUS_FAILED_DEAD,   /* a dead letter, for `reason` */
	BUS_FAILED_PARKED, /* ordered, timer_id 0: waits behind an earlier event of its key; no
	                      attempt made */
	BUS_FAILED_DUE,    /* a parked row is due now: what it waited for is over */
};

struct bus_failure {
	enum bus_failure_kind kind;
	uint64_t timer_id; /* it came from this row, which is changed or removed; 0 = the journal */
	uint32_t partition_id; /* where the event was published */
	uint64_t seq;
	uint32_t attempt;    /* attempts made so far */
	uint64_t delay_ms;   /* RETRY */
	struct slice reason; /* one line of UTF-8, at most BUS_REASON_MAX bytes, for people and for
	                        `history`: why this attempt failed */
	struct batch
	        *batch; /* timer_id 0: holds the event at `index`; one reference, the caller's */
	uint32_t index;
	uint64_t made; /* out: the timer row made for it, 0 = none */
};

struct bus_settle {
	enum sql_outcome outcome; /* OK, RETRY, UNKNOWN, LOST (not ours any more, or a cursor
	                             moved), FATAL */
	void (*done)(struct bus_settle *);
	void *arg;

	uint32_t tenant_id;
	uint64_t subscription_id;
	uint64_t epoch;
	size_t n_cursors; /* as in bus_commit: commit_no is the one to match */
	const struct bus_cursor *cursors;
	size_t n_failures; /* 0..BUS_FAILURES_MAX */
	struct bus_failure *failures;
	size_t n_done; /* timer rows whose events were processed: 0..BUS_FAILURES_MAX */
	const uint64_t *done_timers;
};

/* A subscription's events that wait in the timer table: those that are due by now, the whole event
 * of each, earliest first. A PARKED one is not due before its owner makes it so (with a settle). */
struct bus_retry {
	uint64_t timer_id;
	uint32_t partition_id;
	uint64_t seq;
	uint32_t attempt;    /* attempts made so far */
	struct batch *batch; /* of this one event; the caller's reference */
};

/* A row without its event, for the owner of an ordered subscription, who must know its keys. */
struct bus_waiting {
	uint64_t timer_id;
	enum bus_failure_kind kind; /* RETRY or PARKED */
	uint32_t partition_id;
	uint64_t seq;
	uint64_t key; /* event_ordering(): hash of what orders it */
};

struct bus_retries {
	enum sql_outcome outcome;
	void (*done)(struct bus_retries *);
	void *arg;

	uint32_t tenant_id;
	uint64_t subscription_id;
	uint32_t limit; /* rows wanted, 1..BUS_RETRIES_MAX */
	size_t n_known; /* rows the caller has already: not these; 0..BUS_RETRIES_KNOWN_MAX */
	const uint64_t *known; /* their timer ids, ascending; the caller's until done */
	bool list;             /* list every row, too */

	size_t n;                  /* out */
	struct bus_retry *retries; /* out: the caller's, free() */
	size_t n_list;             /* out: `list` */
	struct bus_waiting *rows;  /* out: by partition and seq; the caller's, free() */
	uint64_t waiting;          /* out: rows in all, due or not */
	uint64_t next_in_ms; /* out: until the next that was not returned and is not known is due;
	                      * 0 = it is; UINT64_MAX = none */
};

/* Which of these subscriptions are ours no longer? */
struct bus_owned {
	enum sql_outcome outcome;
	void (*done)(struct bus_owned *);
	void *arg;

	size_t n; /* 1..BUS_CURSORS_MAX */
	struct bus_owned_row {
		uint32_t tenant_id;
		uint64_t subscription_id;
		uint64_t epoch;
		bool lost; /* out */
	} * rows;          /* the caller's */
};

/* Remove subscriptions whose time has run out (no consumer for expiry_s): at most `limit`. */
struct bus_expire {
	enum sql_outcome outcome;
	void (*done)(struct bus_expire *);
	void *arg;
	uint32_t limit;
	uint32_t removed; /* out */
};

/* ---- roles: what one node does for all ----------------------------------------------------------
 */

enum bus_role {
	BUS_ROLE_TIMERS = 1,    /* moves what is due: scheduled publishes, wills, cron ticks */
	BUS_ROLE_RETENTION = 2, /* takes old events away, and what dead nodes left */
	BUS_ROLE_INBOX = 3,     /* moves what applications published in SQL */
	BUS_ROLE_ISSUERS = 4,   /* fetches the keys of identity providers */
};

/* Take a role by the claim rule: it is free when its owner is nobody or not a live session. */
struct bus_role_claim {
	enum sql_outcome outcome; /* OK; LOST a live node has it: see holder; RETRY */
	void (*done)(struct bus_role_claim *);
	void *arg;

	enum bus_role role;
	bool release;           /* give it up instead; `epoch` is then the one it is held by */
	uint64_t epoch;         /* out: every transaction made in this role checks it */
	struct bus_peer holder; /* out, LOST */
};

/* Why a tick of a schedule was left out: nobody waits for an answer, and the next one comes. */
enum bus_left_out {
	BUS_LEFT_OUT_RATE,  /* its tenant is in `over` */
	BUS_LEFT_OUT_LARGE, /* its payload is larger than the tenant's events may be */
	BUS_LEFT_OUT_FULL,  /* the tenant's storage is */
	BUS_LEFT_OUT_REASONS,
};

/* What became of a tenant's. */
struct bus_ticked {
	uint32_t tenant_id;
	uint32_t ticks; /* published */
	uint64_t bytes; /* of their payloads */
	uint32_t left_out[BUS_LEFT_OUT_REASONS];
	uint64_t largest; /* of those that are too large: bytes */
	bool held;        /* something is due, and waits until its storage has room */
};

/* Move what is due by the database's clock into the journal, at most `limit` events, fair between
 * tenants: in one transaction the role's fence, the rows deleted and counted, the events appended.
 * Exactly once: who comes late finds the rows gone. Cron ticks likewise: the schedule's next time
 * is moved on in the transaction that appends the tick's event. An event that the database refuses
 * is found by trying fewer at a time, and set aside for an admin to see: the others go on. What is
 * due of a tenant whose storage is full waits until it has room. */
struct bus_fire {
	enum sql_outcome outcome; /* OK, RETRY, UNKNOWN (ask again: nothing is moved twice), LOST
	                             (the role is not ours any more), FATAL */
	void (*done)(struct bus_fire *);
	void *arg;

	uint64_t epoch; /* of BUS_ROLE_TIMERS */
	uint32_t limit;
	bool early; /* look at everything: something was stored that was due at once, or nearly */
	uint32_t max_event_bytes; /* of ticks, for tenants without a limit of their own; 0 = none */
	size_t n_over;
	const uint32_t *over; /* tenants whose ticks are left out now; borrowed until done() */

	size_t n;               /* out: batches appended, base_seq and stamp set */
	struct batch **batches; /* out: one reference each; they and the array are the caller's */
	uint32_t writer_no;     /* out: of the flush they are of */
	uint64_t flush_no;
	size_t n_late;     /* out: events moved */
	uint64_t *late_ms; /* out: how late each was; the caller's, free() */
	size_t n_ticked;
	struct bus_ticked *ticked; /* out: whose schedules were due; the caller's, free() */
	uint64_t next_in_ms; /* out: until the next is due; 0 = more is due; UINT64_MAX = none */
	uint32_t refused;    /* out: set aside, because the database does not take them */
	char error[160];     /* out, not OK: the database's words, without data */
};

/* What may be moved of a tenant's now. */
struct bus_allowance {
	uint64_t events;
	uint64_t bytes;     /* of payloads: while any are left, one more is moved whole */
	uint64_t scheduled; /* of the events, to wait for their time; what is beyond is set aside */
	uint64_t event_bytes; /* of one payload; what is larger is set aside */
};

#define BUS_ALLOWANCE_ALL ((struct bus_allowance){UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX})

/* What became of a tenant's. */
struct bus_collected {
	uint32_t tenant_id;
	uint32_t events;    /* moved */
	uint32_t scheduled; /* of them, to wait for their time */
	uint32_t refused;   /* set aside: no more may be scheduled */
	uint32_t too_large; /* set aside: one payload is */
	uint64_t largest;   /* of these: bytes */
	uint64_t bytes;     /* of payloads, moved */
	bool held;          /* there is more than might be moved */
};

/* Move what applications published in SQL, in transactions of theirs that committed, into the
 * journal: at most `limit` events, in the order of their calls, fair between tenants: in one
 * transaction the role's fence, the rows deleted and counted, the events appended. Exactly once:
 * who comes late finds the rows gone. What is to be delivered later becomes a scheduled event. A
 * row that cannot be an event is set aside with its reason, and with a row in the audit.
 *
 * Rates: `allow` is asked about each tenant that something was found of, before any of it is moved.
 * Who has more than that is held: the rest stays where it is, is asked about with each request, and
 * is not read until something is allowed again. */
struct bus_collect {
	enum sql_outcome outcome; /* OK, RETRY, UNKNOWN (ask again: nothing is moved twice), LOST
	                             (the role is not ours any more), FATAL */
	void (*done)(struct bus_collect *);
	/* Until done(), on the owner's thread; NULL = all. later: `scheduled` is wanted, and while
	 * that is not known `events` is 0. */
	void (*allow)(void *arg, uint32_t tenant_id, bool later, struct bus_allowance *out);
	void *arg;

	uint64_t epoch; /* of BUS_ROLE_INBOX */
	uint32_t limit;

	uint32_t set_aside;     /* out: rows that cannot be events */
	uint32_t held;          /* out: tenants */
	size_t n;               /* out: batches appended, base_seq and stamp set */
	struct batch **batches; /* out: one reference each; they and the array are the caller's */
	uint32_t writer_no;     /* out: of the flush they are of */
	uint64_t flush_no;
	size_t n_late;      /* out: events moved */
	uint64_t *late_ms;  /* out: of each, how long after its call; the caller's, free() */
	uint64_t due_in_ms; /* out: the soonest of those that were scheduled; UINT64_MAX = none */
	uint64_t look_us;   /* out: what it took to look */
	uint64_t waiting;   /* out: rows that are left, up to BUS_INBOX_WAITING_MAX */
	size_t n_tenants; /* out: by tenant_id, of whom something was found; the caller's, free() */
	struct bus_collected *tenants;
	bool more; /* out: there is more that may be moved: ask again soon */
};

static inline void bus_collect_clear(struct bus_collect *req)
{
	req->set_aside = req->held = 0;
	req->n = req->n_late = req->n_tenants = 0;
	req->batches = NULL;
	req->late_ms = NULL;
	req->tenants = NULL;
	req->due_in_ms = UINT64_MAX;
	req->look_us = req->waiting = 0;
	req->more = false;
}

/* One small step of retention: batches that are too old, or too many for their tenant, deleted from
 * the oldest on, at most `limit`; what ended sessions left removed. It stops before what a pinned
 * queue has not done; a tenant that is at its limit of bytes because of one is marked
 * full (tenant.full_since), which nodes refuse its publishes by, until there is room again. Appends
 * never wait for it. Interrupted at any point, it is right: the next step goes on.
 *
 * With `aside` also what was set aside of what applications published in SQL (bus_collect), where a
 * tenant has too much of it or nobody acted on it for too long: the oldest first, told in the log
 * and in the audit. */
struct bus_retain {
	enum sql_outcome outcome; /* OK, RETRY, UNKNOWN, LOST (the role), FATAL */
	void (*done)(struct bus_retain *);
	void *arg;

	uint64_t epoch;       /* of BUS_ROLE_RETENTION */
	bool minute;          /* one has passed since this was said: ended sessions are older */
	uint32_t limit;       /* 1..BUS_RETAIN_MAX */
	uint32_t retention_s; /* of tenants without a setting of their own; 0 = for ever */
	uint64_t max_stored_bytes; /* likewise; 0 = no limit */
	bool aside;                /* look at what was set aside, too */
	uint32_t aside_s;          /* what is so for longer goes; 0 = never */
	uint32_t max_aside;        /* rows of one tenant; 0 = any number */

	/* In and out: heads up to this one were looked at. Begin, and go on after a round, with 0.
	 */
	uint32_t tenant_id;
	uint32_t partition_id;
	uint32_t aside_tenant_id; /* the same, of what was set aside */

	uint32_t removed; /* out: batches */
	uint32_t gaps;    /* out: cursors that it overtook */
	uint32_t asides;  /* out: rows that were set aside, removed */
	bool aside_more;  /* out: that look is not at its end: go on with it */
	bool more;        /* out: there was more than `limit`: ask again soon */
	char error[160];  /* out, not OK: the database's words, without data */
};

/* What this node has and does for some tenants, as the other nodes and the admin's views see it.
 * The counts only grow in a node session's life and begin at 0 with it; the numbers are as of now.
 * A row is written as a whole, so that saying it again does no harm. Of tenants that are deleted,
 * and by who is not live, nothing is kept. */
struct bus_report {
	enum sql_outcome outcome; /* OK, RETRY, UNKNOWN, FATAL */
	void (*done)(struct bus_report *);
	void *arg;

	size_t n; /* 1..BUS_REPORT_MAX */
	const struct bus_usage {
		uint32_t tenant_id;
		uint32_t connections;   /* now */
		uint32_t durable;       /* of these: whose session is kept when they leave */
		uint32_t subscriptions; /* now, served here: sessions, shares, queues */
		uint32_t ephemeral;     /* of these: without a row in `subscription` */
		uint64_t events_in;     /* publishes taken in */
		uint64_t bytes_in;      /* their payloads */
		uint64_t events_out;    /* deliveries sent to clients */
		uint64_t bytes_out;     /* their payloads */
		uint64_t refused;       /* what a limit of the tenant refused */
	} * rows;                       /* the caller's until done */
};

/* What a tenant has in the database now, and what the live nodes say they have of it. Read without
 * a fence: for limits and for people, not for deciding who owns what. */
struct bus_stock {
	enum sql_outcome outcome; /* OK, RETRY, FATAL */
	void (*done)(struct bus_stock *);
	void *arg;

	uint32_t tenant_id;
	uint64_t stored_bytes;  /* out: in the journal */
	uint64_t subscriptions; /* out: rows */
	uint64_t scheduled;     /* out: events that wait for their time */
	uint64_t dead_letters;  /* out */
	uint64_t connections;   /* out: as bus_report says, of all nodes */
	uint64_t ephemeral;     /* out: likewise, subscriptions without a row */
};

/* A row in `audit`: what this node did that a tenant or an admin may ask about. */
struct bus_note {
	enum sql_outcome outcome; /* OK, RETRY, UNKNOWN, FATAL */
	void (*done)(struct bus_note *);
	void *arg;

	uint32_t tenant_id;
	struct slice action; /* these: the caller's until done */
	struct slice target;
	struct slice detail; /* JSON */
};

/* ---- the interface ------------------------------------------------------------------------------
 */

struct bus;

struct bus_ops {
	void (*append)(struct bus *, struct bus_append *);
	void (*resolve)(struct bus *, struct bus_resolve *);
	void (*read)(struct bus *, struct bus_read *);
	void (*locate)(struct bus *, struct bus_locate *);
	void (*heads)(struct bus *, struct bus_heads *);
	void (*layouts)(struct bus *, struct bus_layouts *);
	void (*claim)(struct bus *, struct bus_claim *);
	void (*claim_release)(struct bus *,
	                      struct bus_claim *); /* frees what its results point to */
	void (*change)(struct bus *, struct bus_change *);
	void (*commit)(struct bus *, struct bus_commit *);
	void (*owned)(struct bus *, struct bus_owned *);
	void (*expire)(struct bus *, struct bus_expire *);
	void (*settle)(struct bus *, struct bus_settle *);
	void (*retries)(struct bus *, struct bus_retries *);
	void (*role_claim)(struct bus *, struct bus_role_claim *);
	void (*fire)(struct bus *, struct bus_fire *);
	void (*collect)(struct bus *, struct bus_collect *);
	void (*retain)(struct bus *, struct bus_retain *);
	void (*report)(struct bus *, struct bus_report *);
	void (*stock)(struct bus *, struct bus_stock *);
	void (*note)(struct bus *, struct bus_note *);
	/* Look at the other sessions soon, not when it is next due: somebody there is not known.
	 * events.on_peers tells, if that changes anything. */
	void (*look)(struct bus *);
	/* Another node told of this flush of its own, and the owner knows which heads moved: it
	 * need not hear of it from on_others_stored again. */
	void (*hinted)(struct bus *, const struct id128 *session_id, uint32_t writer_no,
	               uint64_t flush_no);
	void (*stop)(struct bus *, void (*on_stopped)(void *arg),
	             void *arg); /* end the session cleanly */
	void (*free)(struct bus *);
};

enum bus_state {
	BUS_DOWN,  /* the database is away, or was: a new generation. Requests fail fast with RETRY
	            */
	BUS_UP,    /* a session is open and requests are served */
	BUS_ENDED, /* this node was replaced by one of its own name: it must stop */
};

/* Set by the owner before the loop runs. */
struct bus_events {
	void (*on_state)(void *arg, enum bus_state state);
	void (*on_others_stored)(
	        void *arg); /* another node appended something; NULL = not wanted */
	void (*on_taken)(
	        void *arg); /* another node took a subscription from us by force; or NULL */
	/* The other live nodes, when they are not the same as at the last call; or NULL. Borrowed
	 * for the call. */
	void (*on_peers)(void *arg, const struct bus_peer *peers, size_t n);
	void *arg;
};

struct bus_writer_state {
	uint64_t fence;
	uint64_t flush_no; /* last stored */
};

struct bus {
	const struct bus_ops *ops;
	struct bus_events events;
	enum bus_state state;
	uint64_t generation;     /* raised with every BUS_DOWN */
	struct id128 session_id; /* this node's life; a new one when the old was ended by others */
	struct bus_writer_state writers[BUS_WRITERS]; /* as the session began */
};

#endif
