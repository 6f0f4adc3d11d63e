/* delivery: the structures that dispatch.c, space.c, partition.c, subscription.c, session.c and
 * committer.c share. Nobody else includes it. Loop thread only.
 *
 *     dispatch ─┬─ space (a tenant on this node) ─┬─ trie: filter -> subscription
 *               │                                 ├─ partition: tail, catch-up reads
 *               │                                 ├─ session: one client id, connected or not
 *               │                                 └─ share: a subscription with many consumers,
 *               │                                    here and on other nodes (remote, away)
 *               ├─ cache: batches of all partitions, one budget
 *               └─ committer: cursors to the bus
 *
 * A subscription has a *place* in each partition: its feed and what ties it to the lists there. */
#ifndef LEAT_NODE_DELIVERY_H
#define LEAT_NODE_DELIVERY_H

#include "base/map.h"
#include "cluster/bus.h"
#include "node/delivery/consumer.h"
#include "node/delivery/dispatch.h"
#include "node/delivery/feed.h"
#include "node/delivery/session.h"
#include "node/net/later.h"
#include "node/peer/peer.h"
#include "tenancy/trie.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct away;
struct closing;
struct op;
struct partition;
struct place;
struct queue;
struct remote;
struct space;
struct subscription;

/* ---- cache: batches that were read or stored lately, least recently used out first ----------- */

struct cached {
	TAILQ_ENTRY(cached) link;
	struct batch *batch;
	struct partition *partition;
};

TAILQ_HEAD(cached_list, cached);

struct cache {
	struct cached_list lru; /* oldest first */
	size_t bytes;
	size_t budget;
};

TAILQ_HEAD(op_list, op);

/* ---- place and subscription ------------------------------------------------------------------ */

struct place {
	struct feed feed;
	struct subscription *sub;
	struct partition *partition;
	TAILQ_ENTRY(place) link;  /* on partition->live, ->lagging or ->resting */
	TAILQ_ENTRY(place) dirty; /* on committer->dirty when feed.dirty */
	bool resting;             /* on that list */
	bool in_pass;             /* the batch being dispatched is for it */
	bool has_row;             /* durable: `cursors` has a row for it, which commits match */
	struct gap gap;           /* its next delivery tells of it; to 0 = none */
};

TAILQ_HEAD(place_list, place);

/* One topic filter of a subscription. Slots keep their index, which the trie knows: a removed one
 * is empty (text NULL) and used again. */
struct filter {
	char *text;         /* as the client sent it, $share included; NUL-terminated, owned */
	struct slice match; /* what topics are matched against; points into text */
	uint8_t qos;
	bool no_local;
	bool retain_as_published;
	uint8_t retain_handling;
	uint32_t subscription_id; /* 0 = none */
	uint64_t *since; /* per partition: events below it are not for this filter; or NULL */
	uint64_t *until; /* likewise from it on */
	struct subscription *share; /* $share only: the subscription this session consumes from */
};

/* How an event matched a subscription: all its matching filters taken together. */
struct match {
	uint8_t qos;
	uint32_t n_ids;
	uint32_t ids[SESSION_FILTERS_MAX]; /* subscription identifiers [MQTT-3.3.4-3] */
};

static inline void match_clear(struct match *m)
{
	m->qos = 0;
	m->n_ids = 0;
}

enum subscription_state {
	SUBSCRIPTION_UNCLAIMED, /* durable and not ours (yet, or since the last generation) */
	SUBSCRIPTION_CLAIMING,  /* a claim is under way */
	SUBSCRIPTION_ACTIVE,    /* ours; or ephemeral */
	SUBSCRIPTION_AWAY,      /* share: another node owns it and sends us events, or will */
	SUBSCRIPTION_DEAD,      /* gone: freed when the last request comes back */
};

struct subscription {
	struct space *space;
	enum bus_sub_kind kind;
	enum subscription_state state;
	uint64_t id; /* durable: the row's */
	uint64_t epoch;
	uint32_t requests; /* bus requests that hold a pointer to it */
	bool durable;      /* has a row */
	bool pumping;
	char *name; /* share: NAME/FILTER, the map's key */

	struct filter *filters; /* session kind: only the plain ones are in the trie */
	size_t n_filters;
	struct place *places; /* one per partition; NULL until the first filter */

	struct consumer **consumers; /* started sessions, remotes that have such */
	size_t n_consumers;
	size_t turn;     /* round robin */
	uint32_t served; /* events given in this turn */

	/* share kind */
	uint32_t members;  /* sessions in memory that have it among their filters */
	uint32_t expiry_s; /* kept so long after its last member: the longest of theirs */
	enum session_start_at start;
	uint64_t start_value;
	struct op_list waiting; /* who waits for it to become active, or attached */
	struct away *away;      /* another node owns it; see away.c */
	uint64_t held_epoch;    /* what its feeds hold was delivered under this one */
	LIST_HEAD(, remote) remotes;
	uint32_t n_awaited; /* of them have not told what they have in flight: it waits */
	bool claim_due;     /* it will be claimed after a pause */
	bool checking;      /* others_check is under way */
	bool yielding;      /* the node is leaving: nothing more is delivered */
	uint64_t await_until_ms;
	/* session kind */
	struct session *session;
	/* queue kind: as a share, and what queue.h says */
	struct queue *queue;

	uint64_t mark; /* the event last matched, and how */
	struct match match;
	TAILQ_ENTRY(subscription) link; /* on dispatch->durable */
};

TAILQ_HEAD(subscription_list, subscription);

/* ---- partition, space, dispatch -------------------------------------------------------------- */

struct partition {
	struct space *space;
	uint32_t id;
	uint64_t next_seq;  /* everything below was dispatched to live feeds; 0 = head not known */
	uint64_t hinted;    /* others are said to have stored up to here */
	uint64_t confirmed; /* and said so after their COMMIT: durable up to here */
	uint32_t misses;    /* reads in a row that found nothing below `hinted` */
	uint64_t heard_seq; /* while it is not: stored up to here, however old a read's head is */
	struct cached **cache; /* by base_seq, ascending */
	size_t n_cache;
	size_t cap_cache;
	struct place_list live;
	struct place_list lagging; /* they read on */
	struct place_list resting; /* they lag, and nobody takes more now: place_resume */
	bool reading;    /* one read at a time; stays set through the pause after a failed one */
	bool outdated;   /* something was stored since that read began, nobody knows where */
	bool pausing;    /* that pause */
	bool scheduled;  /* catch-up will run at the end of this turn */
	bool freed;      /* nobody needs it; freed when its read and its turn end are over */
	uint64_t wanted; /* a batch some READY entry needs back; 0 = none */
};

struct space {
	struct dispatch *dispatch;
	uint32_t tenant_id;
	uint32_t n_partitions;
	struct trie *trie;
	struct partition **partitions; /* [n_partitions]; NULL = not tracked */
	struct map sessions;           /* subject NUL client_id -> session */
	struct map shares;             /* NAME/FILTER, or a queue's NAME -> subscription */
	struct map share_ids;          /* subscription_id -> the same, as far as known */
	uint32_t requests; /* bus requests and closing objects that hold a pointer to it */
};

struct committer {
	struct place_list dirty;
	struct loop_timer *timer;
	bool armed;
	bool failed;      /* the last one: pause before the next */
	size_t in_flight; /* commits the bus has */
};

struct dispatch {
	struct loop *loop;
	struct bus *bus;
	struct dispatch_settings settings;
	struct dispatch_stats stats;
	struct cache cache;
	struct trie_cache *trie_cache;
	struct committer committer;
	struct map spaces;                /* tenant_id -> space */
	struct subscription_list durable; /* every subscription with a row */
	struct map opens;                 /* conn_id -> session being opened for it */
	struct laters laters;
	uint64_t event_mark;
	struct loop_timer *sweep;
	bool up;                       /* the bus is */
	uint32_t looks;                /* requests for heads under way */
	bool look_again;               /* something was stored since they were sent */
	LIST_HEAD(, closing) closings; /* rows being released or deleted */
	uint32_t strays;               /* claims under way, to release what they find */
	const struct peer_port *port;  /* NULL = there are no links to other nodes */
	struct id128 *peers;           /* that are up */
	size_t n_peers;
	bool leaving;         /* shares go to other nodes; none is claimed */
	uint64_t leave_by_ms; /* what is in flight is waited for until then */
	void (*left)(void *arg);
	void *left_arg;
	LIST_HEAD(, session) watched; /* with an ack time-out running */
	bool watching;                /* the next look at them is due */
	bool draining;                /* nothing new is claimed or delivered */
	bool released;                /* draining: every subscription was let go */
	bool freeing;                 /* the bus is not asked any more */
	void (*drained)(void *arg);
	void *drained_arg;
};

/* dispatch.c */
struct space *dispatch_space(struct dispatch *d, const struct tenant *t); /* finds or makes */
void dispatch_drain_check(struct dispatch *d);
void dispatch_after(struct dispatch *d, uint32_t ms, void (*fn)(void *), void *arg);
void dispatch_forget(struct dispatch *d, const void *arg); /* no such call any more */

/* space.c */
struct space *space_new(struct dispatch *d, uint32_t tenant_id, uint32_t n_partitions);
void space_free_if_unused(struct space *sp);
struct partition *space_partition(struct space *sp, uint32_t id); /* finds or makes */

/* partition.c */
void partition_join(struct partition *p, struct place *pl); /* it lags from feed.next_seq */
void partition_leave(struct place *pl); /* the last one out ends the partition */
void partition_free(struct partition *p);
void partition_stored(struct partition *p, struct batch *b); /* a batch this node committed */
/* Others have stored up to it; confirmed: they said so after their COMMIT. */
void partition_hint(struct partition *p, uint64_t next_seq, bool confirmed);
void partition_suspend(struct partition *p);  /* a new generation */
void partition_schedule(struct partition *p); /* catch up at the end of the turn */
struct batch *partition_batch(struct partition *p, uint64_t seq); /* borrowed; NULL = not here */
void partition_fetch(struct partition *p, uint64_t seq);          /* read it, then pump */
void cache_drop(struct cache *c, struct cached *e);

/* subscription.c */
struct subscription *subscription_new(struct space *sp, enum bus_sub_kind kind, const char *name);
void subscription_claimed(struct subscription *s, const struct bus_claim *req); /* now ours */
void subscription_unref(struct subscription *s); /* one request came back */
void subscription_kill(struct subscription *s);  /* out of every list; freed when it may be */
/* Give it a place in every partition, beginning at starts[partition]; it lags and catches up. */
void subscription_begin(struct subscription *s, const uint64_t *starts);
/* The same from a stored cursor. was_ours: nobody else had it since we suspended it, so that what
 * we know beyond the cursor still holds. */
void subscription_begin_at(struct subscription *s, const struct bus_cursor *cursor, bool was_ours);
void subscription_stored(struct subscription *s); /* its cursors have their rows now */
void subscription_suspend(struct subscription *s);
void subscription_wake(struct subscription *s); /* a consumer is there: catch up and pump */
void subscription_pump(struct subscription *s);
void subscription_park(struct subscription *s, struct consumer *gone);
void subscription_add_consumer(struct subscription *s, struct consumer *c);
void subscription_remove_consumer(struct subscription *s, const struct consumer *c);
struct consumer *subscription_pick(struct subscription *s); /* whose turn it is; NULL = no room */
void subscription_make_places(struct subscription *s);
void subscription_forget_held(struct subscription *s); /* what was in flight is no more */
void subscription_reclaim(struct subscription *s);     /* after a new generation */
void subscription_doubt(struct subscription *s);       /* what is stored is not known: claim anew */
void subscription_lost(struct subscription *s);        /* a fence did not match: it is not ours */

bool place_wants(struct place *pl); /* ours, lags, has a consumer, and room */
void place_lag(struct place *pl, uint64_t next_seq, bool blocked);
void place_resume(struct place *pl); /* if it wants to: it reads on */
uint64_t place_matched_through(const struct place *pl);
/* One event for it; false = no room or nobody there: it lags from here. */
bool place_offer(struct place *pl, uint64_t seq, const struct event *ev, struct batch *b,
                 const struct match *m);
void place_settle(struct place *pl, uint64_t seq);
void place_return(struct place *pl, struct feed_entry *e); /* in flight no more: send it again */
/* What c is sent of an event that matched as m says; *own is where its own options go. */
void place_outgoing(struct place *pl, const struct session *c, const struct event *ev,
                    struct batch *b, const struct match *m, struct match *own,
                    struct outgoing *out);
/* What a consumer made of an event: for all but queues the same as settling it. */
void place_result(struct place *pl, uint64_t seq, enum peer_result result, struct slice reason);
/* Send an event to a consumer that can take it; e: its entry if it waited. False: its link is full.
 */
bool place_deliver(struct place *pl, struct consumer *c, uint64_t seq, const struct event *ev,
                   struct batch *b, const struct match *m, struct feed_entry *e);
/* Events [from, to) are gone, which its next delivery tells of. */
void place_note_gap(struct place *pl, uint64_t from, uint64_t to);
/* The same; it does not wait for them. */
void place_skip(struct place *pl, uint64_t from, uint64_t to);

/* filter.c */
bool filter_is_share(struct slice text); /* $share/… or $queue/…: of another subscription */
bool filter_is_queue(struct slice text);
struct filter *filter_find(struct subscription *s, struct slice text);
/* A free or new slot; text is copied. Add it to the trie with filter_plant when it is filled in. */
struct filter *filter_add(struct subscription *s, struct slice text);
void filter_plant(struct subscription *s, struct filter *f);
void filter_remove(struct subscription *s, struct filter *f);
void filter_clear(struct filter *f); /* the same for one that is not in the trie */
size_t filter_count(const struct subscription *s);
bool filter_applies(const struct filter *f, const struct subscription *s, uint32_t partition,
                    uint64_t seq, const struct event *ev);
void match_add(struct match *m, const struct filter *f);
void filter_set_until(const struct subscription *s, struct filter *f, const uint64_t *until);
/* ,"name":[…]: a number of each partition; NULL is left out. */
void filter_encode_seqs(struct buf *out, const char *name, const uint64_t *seqs, uint32_t n);
/* Take over where a share's filter ends, from its row. */
void filters_take_until(struct subscription *s, struct slice json);
/* The filters as the JSON text a subscription row keeps, and back. */
void filters_encode(const struct subscription *s, struct buf *out);
int filters_decode(struct subscription *s, struct slice json);

/* share.c */
struct subscription *share_get(struct space *sp, const struct filter *f, uint32_t expiry_s,
                               enum session_start_at start, uint64_t start_value);
/* False = its events can come already. */
bool share_wait(struct subscription *share, struct op *op);
void share_claim(struct subscription *share);
void share_claim_later(struct subscription *share, uint32_t ms);
void share_flows(struct subscription *share); /* who waited is told */
void share_leave(struct subscription *share, struct session *s);
void share_set_id(struct subscription *share, uint64_t id);
struct subscription *share_find(struct dispatch *d, uint32_t tenant_id, enum bus_sub_kind kind,
                                struct slice name);
struct subscription *share_find_id(struct dispatch *d, uint32_t tenant_id, uint64_t id);
/* Nobody here consumes it any more, and nobody elsewhere through us: see it off. lost: a link was,
 * and who was behind it may be back. */
void share_end_if_unused(struct subscription *share, bool lost);
void share_each(struct dispatch *d, void (*fn)(struct subscription *, const void *),
                const void *arg); /* fn may end the one it is called with */

/* remote.c: the owner's side of consumers on another node */
/* Deliveries one share may have room for on another node: a slow node hoards nothing. */
enum { REMOTE_CREDIT_MAX = 256 };

struct remote {
	struct consumer consumer; /* first: remote_of() */
	LIST_ENTRY(remote) link;  /* on sub->remotes */
	struct subscription *sub;
	struct id128 peer;
	bool attached;    /* it has members; else it may still have something in flight */
	bool telling;     /* what it has in flight, and there is more to come */
	bool awaited;     /* asked what it has in flight, and has not told */
	bool flying;      /* it had something in flight before it was attached */
	bool blocked;     /* its link takes no more until it says so */
	uint16_t round;   /* packet_id of the entries it was sent, or told of, since it was asked */
	uint32_t workers; /* its consumers; > 0 = it is among sub->consumers */
	uint32_t credit;  /* deliveries that have room there */
};

static inline struct remote *remote_of(struct consumer *c)
{
	return (struct remote *)c;
}

struct remote *remote_get(struct subscription *s, const struct id128 *peer); /* finds or makes */
void remote_next_round(struct remote *r);
struct remote *remote_find(const struct subscription *s, const struct id128 *peer);
void remote_free(struct remote *r);   /* what it had in flight is returned */
void remote_detach(struct remote *r); /* nothing more is sent to it */
/* Ownership goes or pauses: those that consume it are told to look for another owner. */
void remotes_dismiss(struct subscription *s);
void remotes_release(struct subscription *s); /* it is not ours: what they have is theirs to tell */
bool remotes_attached(const struct subscription *s);
bool remote_can_begin(const struct remote *r);
/* False = its link is full. e: its entry if it waited. */
bool remote_deliver(struct place *pl, struct remote *r, uint64_t seq, struct batch *b,
                    struct feed_entry *e);
void remote_on_message(struct dispatch *d, const struct id128 *peer, const struct peer_message *m);
void remote_on_held(struct subscription *s, const struct id128 *peer, const struct peer_message *m);

/* away.c: the side of the node whose sessions consume what another node owns */
void away_begin(struct subscription *s, const struct id128 *owner); /* zero = not known */
void away_end(struct subscription *s);                              /* ours now, or going */
bool away_leave(struct subscription *s); /* its last member went: tell the owner; false = not yet */
bool away_attached(const struct subscription *s);
void away_attach(struct subscription *s);
void away_doubt(struct subscription *s); /* is it still who we are attached to? */
bool away_may_claim(const struct subscription *s);
void away_detach(struct subscription *s); /* from its owner, whoever that was */
void away_lost(struct subscription *s);   /* the same, and look for another */
void away_pump(struct subscription *s);   /* consumers, or their room, may have changed */
void away_settled(struct place *pl, uint64_t seq);
void away_result(struct place *pl, uint64_t seq, enum peer_result result, struct slice reason);
void away_park(struct subscription *s, const struct consumer *gone);
void away_forget_rows(struct subscription *s); /* queue: the bus is down */
void away_room(struct subscription *s);        /* its link takes more again */
void away_sweep(struct subscription *s);
void away_on_message(struct dispatch *d, const struct id128 *peer, const struct peer_message *m);
bool away_is_from(const struct subscription *s, const struct id128 *owner);
/* Tell a node what is in flight here, and what was settled lately. s NULL: nothing. False = not all
 * of it could be sent. */
bool away_tell_held(struct dispatch *d, const struct id128 *to, const struct peer_message *asked,
                    struct subscription *s);

/* handover.c: from one owner to the next */
void handover_begin(struct subscription *s, bool created); /* just claimed */
void handover_heard(struct remote *r);                     /* it told all, or is gone */
void handover_ask_again(struct remote *r); /* the question may not have got through */

/* peers.c */
bool peer_send(struct dispatch *d, const struct id128 *to, const struct peer_message *m);
void peer_send_all(struct dispatch *d, const struct peer_message *m);
bool peer_is_up(const struct dispatch *d, const struct id128 *peer);
struct peer_message share_message(const struct subscription *s, enum peer_type type);

/* closing.c: see a row off: let go of it, or delete it, however long the database takes. */
void closing_start(struct subscription *s, bool delete_row, uint32_t expiry_s, uint32_t idle_s);
/* The same for a row that was claimed for a subscription that did not wait for it. */
void closing_claimed(struct dispatch *d, const struct bus_claim *claim);
/* A share that others take for ours and that is not here: its row may be ours nonetheless, by a
 * claim whose outcome never came, and is let go then. */
void closing_stray(struct dispatch *d, uint32_t tenant_id, enum bus_sub_kind kind,
                   struct slice name);
/* At the end of dispatch, when nothing is under way any more: forget those that wait to be
 * repeated. */
void closing_release_all(struct dispatch *d);

/* starts.c: where in each partition does a new position begin? Asks the bus where this node does
 * not know. done gets starts[n_partitions] (borrowed), or NULL: not now, try again. */
void starts_find(struct space *sp, enum session_start_at at, uint64_t value,
                 void (*done)(void *arg, const uint64_t *starts), void *arg);

/* subscribe.c: SUBSCRIBE and UNSUBSCRIBE, one after the other per session */
enum op_stage {
	OP_UNTIL,   /* find where they end */
	OP_STARTS,  /* find where new filters begin */
	OP_APPLY,   /* change the filters in memory */
	OP_JOIN,    /* wait until its shared subscriptions are ours */
	OP_PERSIST, /* write them into the session's row */
	OP_ANSWER,
};

struct op {
	TAILQ_ENTRY(op) link;       /* on session->pending */
	TAILQ_ENTRY(op) waits_link; /* on waiting->waiting */
	struct subscription *waiting;
	struct session *session; /* one of its requests */
	bool subscribe;          /* else unsubscribe */
	bool silent;             /* nobody waits for the answer any more */
	bool busy;               /* something will call back */
	enum op_stage stage;
	struct session_filter *filters; /* texts owned; unsubscribe uses filter and reason only */
	size_t n;
	size_t joined;
	bool rejoins; /* it waits for a queue, and looks at it again then */
	enum session_start_at start;
	uint64_t start_value;
	bool bounded;
	enum session_start_at until_at;
	uint64_t until_value;
	uint64_t *until; /* per partition; NULL = not bounded, or not found yet */
	struct bus_policy policy;
	bool begins;                /* these are the session's first filters */
	struct bus_cursor *cursors; /* begins: where */
	struct bus_change change;
	struct buf json;
	uint16_t packet_id;
	const char *text; /* why something failed */
	char *own_text;   /* the same, where it was made up; or NULL */
	void (*done)(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
	             const char *text);
};

void op_step(struct op *op);
void session_store(struct session *s); /* write its row, in turn with its other operations */
/* The filter that it waits to join is refused: answer so. */
void op_refuse(struct op *op, uint8_t reason, const char *text);
void op_silence(struct session *s);  /* their connection is gone: finish without an answer */
void op_drop_all(struct session *s); /* the session is going */

/* session.c */
struct session {
	struct consumer consumer; /* first: session_of() */
	struct space *space;
	char *key; /* subject NUL client_id */
	size_t key_len;
	size_t subject_len;
	uint32_t expiry_s;
	uint64_t idle_since_ms; /* lingering since, clock_now_ms(); 0 = it has a connection */
	uint32_t requests;      /* what holds a pointer to it */
	bool opening;           /* `open` waits for its answer */
	bool dead;              /* out of the map; freed when requests is 0 */
	bool clean_start;
	bool asked_again;         /* its claim was repeated after one that may have been stored */
	struct subscription *sub; /* its own; NULL while opening */

	uint64_t conn_id; /* 0 = nobody */
	const struct session_conn_ops *ops;
	void *conn;
	bool started;
	uint16_t receive_max;
	uint16_t in_flight; /* sent on this connection and not answered */
	void (*open_done)(void *conn, struct session *s, bool present, uint8_t reason,
	                  const char *text);

	struct slot {                /* packet id - 1 */
		struct place *place; /* NULL with used: the event went away, the id did not */
		uint64_t seq;
		uint64_t due_ms; /* queue: cut off unless it is answered by then; 0 = never */
		bool used;
	} * slots;
	uint64_t ack_due_ms; /* no slot is due before */
	bool watched;        /* on dispatch->watched */
	LIST_ENTRY(session) watch_link;
	uint16_t n_slots;
	uint16_t n_used;
	uint16_t next_slot;
	struct op_list pending; /* SUBSCRIBE and UNSUBSCRIBE in order, one at work */
};

/* The session that a consumer is. */
static inline struct session *session_of(struct consumer *c)
{
	return (struct session *)c;
}

bool session_can_take(const struct session *s);
bool session_can_begin(const struct session *s); /* the same, and a packet id is free */
uint16_t session_take_packet_id(struct session *s, struct place *pl, uint64_t seq);
void session_free_packet_id(struct session *s, uint16_t packet_id);
/* Its event is another one now; the id is taken until the client has answered. */
void session_void_packet_id(struct session *s, uint16_t packet_id);
void session_void_subscription(struct session *s, const struct subscription *sub);
void session_send(struct session *s, const struct outgoing *out);
const struct filter *session_share_filter(const struct session *s,
                                          const struct subscription *share);
struct slice session_subject(const struct session *s);
bool session_consumes(const struct session *s); /* has a started connection */
void session_kill(struct session *s, uint8_t reason, const char *text); /* kicks, then frees */
void session_let_go(struct session *s); /* the same, and releases its row, which is ours */
void session_unref(struct session *s);
void session_release(struct session *s); /* drain: let go of a durable session */

/* A consumer that misbehaves: its connection is ended, the session stays as long as it may. */
void session_cut(struct session *s, uint8_t reason, const char *text);
void session_drop_share(struct session *s, struct subscription *share); /* and its filter */

/* ack_timeout.c: consumers of queues that hold an event too long */
void ack_timeout_watch(struct session *s, uint16_t packet_id, uint32_t timeout_ms);
void ack_timeout_forget(struct session *s);

/* others.c: what other nodes did */
void others_stored(struct dispatch *d);
void others_hinted(struct dispatch *d, const struct bus_head *head); /* after their COMMIT */
void others_took(struct dispatch *d);
void others_check(struct subscription *s); /* somebody says it is not ours: is it? */

/* committer.c */
void committer_init(struct dispatch *d);
void committer_release(struct dispatch *d);
void committer_mark(struct dispatch *d, struct place *pl); /* its cursor may have moved */
void committer_forget(struct dispatch *d, struct place *pl);
void committer_flush(struct dispatch *d); /* all that is dirty, now */
bool committer_idle(const struct dispatch *d);

#endif
