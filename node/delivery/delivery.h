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
#include "node/delivery/gaps.h"
#include "node/delivery/packet_ids.h"
#include "node/delivery/positions.h"
#include "node/delivery/rota.h"
#include "node/delivery/session.h"
#include "node/net/later.h"
#include "node/peer/peer.h"
#include "tenancy/share.h"
#include "tenancy/trie.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct away;
struct closing;
struct layouts;
struct op;
struct partition;
struct place;
struct queue;
struct remote;
struct space;
struct subscription;

enum { PARTITION_ID_MAX = UINT16_MAX }; /* as the columns are */

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
	uint64_t swept;           /* away: events below it came before the last sweep */
	struct gaps gaps;         /* what its consumers have to be told of */
	uint64_t noted_ms;        /* when a gap of ours was last put into the audit; 0 = never */
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
	uint32_t subscription_id;   /* 0 = none */
	struct positions *since;    /* events before are not for this filter; or NULL */
	struct positions *until;    /* likewise from there on */
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
	struct place **places; /* of partitions first_place .. + n_places; 0 until the first filter
	                        */
	uint32_t first_place;
	uint32_t n_places;
	bool stepping; /* to the next layout: it has finished the one it reads */
	bool step_due; /* on dispatch->steps */
	TAILQ_ENTRY(subscription) step_link;

	struct rota rota; /* its consumers: started sessions, remotes that have such */
	bool rota_due;    /* it will be pumped when turns are kept for nobody any more */

	/* share kind */
	uint32_t members;  /* sessions in memory that have it among their filters */
	uint32_t expiry_s; /* kept so long after its last member: the longest of theirs */
	enum session_start_at start;
	uint64_t start_value;
	struct op_list waiting; /* who waits for it to become active, or attached */
	struct away *away;      /* another node owns it; see away.c */
	uint64_t held_epoch;    /* what its feeds hold was delivered under this one, */
	uint64_t held_since; /* or one from here on: each of them a claim, no change from outside */
	LIST_HEAD(, remote) remotes;
	uint32_t n_awaited;      /* of them have not told what they have in flight: it waits */
	uint32_t claim_pause_ms; /* before the next claim, when it was refused; 0 = it was not */
	bool claim_due;          /* it will be claimed after a pause */
	bool checking;           /* others_check is under way */
	bool yielding;           /* the node is leaving: nothing more is delivered */
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

static inline struct place *place_find(const struct subscription *s, uint32_t partition)
{
	uint32_t i = partition - s->first_place;

	return i < s->n_places ? s->places[i] : NULL;
}

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
	struct place_list lagging;        /* they read on */
	struct place_list resting;        /* they lag, and nobody takes more now: place_resume */
	TAILQ_ENTRY(partition) read_link; /* on space->reads while `queued` */
	uint64_t read_from;
	uint64_t round;  /* see timeshare_turn */
	bool reading;    /* one read at a time; stays set through the pause after a failed one */
	bool queued;     /* that read waits for its turn */
	bool outdated;   /* something was stored since that read began, nobody knows where */
	bool pausing;    /* that pause */
	bool scheduled;  /* catch-up will run at the end of this turn */
	bool freed;      /* nobody needs it; freed when its read and its turn end are over */
	uint64_t wanted; /* a batch some READY entry needs back; 0 = none */
};

/* What of a tenant's events is older than a subscription may be behind. */
struct backlog {
	struct positions *old; /* what is before them; NULL = not known */
	uint64_t at_ms;
	bool asking;
};

struct space {
	struct dispatch *dispatch;
	const struct tenant *tenant; /* its limits are read when they are needed */
	uint32_t tenant_id;
	struct layout layout; /* where its events go, as far as this node knows */
	struct trie *trie;
	struct partition **partitions; /* [n_partitions]; NULL = not tracked */
	uint32_t n_partitions;
	struct layouts *layouts; /* what is known of all layouts; NULL = nothing but the present one
	                          */
	struct map sessions;     /* subject NUL client_id -> session */
	struct map shares;       /* NAME/FILTER, or a queue's NAME -> subscription */
	struct map share_ids;    /* subscription_id -> the same, as far as known */
	struct backlog backlog;
	struct usage_row *usage;        /* NULL = nobody counts */
	struct timeshare_account *time; /* time for its deliveries; NULL = any */
	struct share_entry reading;     /* its turn among those that read the journal */
	TAILQ_HEAD(, partition) reads;  /* that wait for it */
	uint32_t requests; /* bus requests and closing objects that hold a pointer to it */
};

/* Journal reads under way, and whose turn is next. */
struct reads {
	struct share share; /* of spaces, a read at a time */
	uint32_t under_way;
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
	struct reads reads;
	struct map spaces;                /* tenant_id -> space */
	struct subscription_list durable; /* every subscription with a row */
	struct map opens;                 /* conn_id -> session being opened for it */
	struct laters laters;
	uint64_t event_mark;
	struct loop_timer *sweep;
	struct loop_timer *backlog;
	bool up;                       /* the bus is */
	uint32_t looks;                /* requests for heads under way */
	bool look_again;               /* something was stored since they were sent */
	LIST_HEAD(, closing) closings; /* rows being released or deleted */
	uint32_t strays;               /* claims under way, to release what they find */
	uint32_t claims_refused;       /* by the database, since that was told */
	uint64_t refusal_told_ms;
	const struct peer_port *port; /* NULL = there are no links to other nodes */
	struct id128 *peers;          /* that are up */
	size_t n_peers;
	bool leaving;         /* shares go to other nodes; none is claimed */
	uint64_t leave_by_ms; /* what is in flight is waited for until then */
	void (*left)(void *arg);
	void *left_arg;
	LIST_HEAD(, session) watched;   /* with an ack time-out running */
	bool watching;                  /* the next look at them is due */
	bool draining;                  /* nothing new is claimed or delivered */
	struct subscription_list steps; /* that may go on to the next layout */
	bool released;                  /* draining: every subscription was let go */
	bool freeing;                   /* the bus is not asked any more */
	void (*drained)(void *arg);
	void *drained_arg;
};

/* dispatch.c */
struct space *dispatch_space(struct dispatch *d, const struct tenant *t); /* finds or makes */
void dispatch_drain_check(struct dispatch *d);
void dispatch_claim_refused(struct dispatch *d, const struct bus_claim *req); /* is logged */
void dispatch_after(struct dispatch *d, uint32_t ms, void (*fn)(void *), void *arg);
void dispatch_forget(struct dispatch *d, const void *arg); /* no such call any more */
/* A row for one more subscription? ROOM has to be followed by space_made. */
enum dispatch_room space_may_make(const struct space *sp);
void space_full(const struct space *sp); /* one was refused */
/* For one more dead letter? Then it has to be followed by space_buried. */
bool space_may_bury(const struct space *sp);
void space_buried(const struct space *sp, bool buried);
/* What became of it: the outcome of a claim that was to make the row if it was not there. */
void space_made(const struct space *sp, const struct bus_claim *claim);

/* space.c */
struct space *space_new(struct dispatch *d, const struct tenant *t);
void space_free_if_unused(struct space *sp);
struct partition *space_partition(struct space *sp, uint32_t id); /* finds or makes */
void space_each_subscription(struct space *sp, void (*fn)(struct subscription *));
static inline struct partition *space_find_partition(const struct space *sp, uint32_t id)
{
	return id < sp->n_partitions ? sp->partitions[id] : NULL;
}

/* reads.c */
void reads_init(struct dispatch *d);
void reads_enter(struct space *sp);
void reads_leave(struct space *sp);
void reads_ask(struct partition *p);    /* partition_read(p) when it is its turn, maybe now */
void reads_forget(struct partition *p); /* if it waits: it need not any more */
void reads_done(struct dispatch *d);    /* a read was answered */

/* partition.c */
void partition_read(struct partition *p); /* read on from read_from; reads_done when answered */
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
/* Give it a place in every partition, beginning there; it lags and catches up. */
void subscription_begin(struct subscription *s, const struct positions *starts);
void subscription_stored(struct subscription *s); /* its cursors have their rows now */
void subscription_suspend(struct subscription *s);
void subscription_wake(struct subscription *s); /* a consumer is there: catch up and pump */
void subscription_pump(struct subscription *s);
void subscription_park(struct subscription *s, struct consumer *gone);
struct consumer *subscription_pick(struct subscription *s); /* whose turn it is; NULL = no room */
void subscription_forget_held(struct subscription *s);      /* what was in flight is no more */
void subscription_reclaim(struct subscription *s);          /* after a new generation */
void subscription_doubt(struct subscription *s); /* what is stored is not known: claim anew */
void subscription_lost(struct subscription *s);  /* a fence did not match: it is not ours */

/* place.c; place_lag and place_resume are partition.c's */
bool place_wants(struct place *pl); /* ours, lags, has a consumer, and room */
void place_lag(struct place *pl, uint64_t next_seq, bool blocked);
void place_resume(struct place *pl); /* if it wants to: it reads on */
uint64_t place_matched_through(const struct place *pl);
/* One event for it; false = no room or nobody there: it lags from here. */
bool place_offer(struct place *pl, uint64_t seq, const struct event *ev, struct batch *b,
                 const struct match *m);
void place_settle(struct place *pl, uint64_t seq);
void place_pump(struct place *pl); /* what waits there to whoever can take it */
void place_ready(struct place *pl, struct feed_entry *e);  /* in flight no more: send it again, */
void place_return(struct place *pl, struct feed_entry *e); /* to anybody */
/* What c is sent of an event that matched as m says; *own is where its own options go. */
void place_outgoing(struct place *pl, const struct session *c, const struct event *ev,
                    struct batch *b, const struct match *m, struct match *own,
                    struct outgoing *out);
/* What a consumer made of an event: for all but queues the same as settling it. */
void place_result(struct place *pl, uint64_t seq, enum peer_result result, struct slice reason);
/* Its consumer has answered, so it has heard of what went undelivered before. */
void place_heard(struct place *pl, uint64_t seq);
/* Send an event to a consumer that can take it; e: its entry if it waited. False: its link is full.
 */
bool place_deliver(struct place *pl, struct consumer *c, uint64_t seq, const struct event *ev,
                   struct batch *b, const struct match *m, struct feed_entry *e);
/* What waits to be sent, and is below `to`, is given up, which its next delivery tells; what is in
 * flight is not. Returns how many. */
uint64_t place_give_up(struct place *pl, uint64_t to);
/* The same; it does not wait for them. */
void place_skip(struct place *pl, uint64_t from, uint64_t to);

/* backlog.c */
/* Is it known what is too old for this tenant's subscriptions? Else it is asked for, and the
 * partitions are scheduled when it is. */
bool backlog_known(struct space *sp);
void backlog_limit(struct place *pl);   /* what it is too far behind with is given up */
void backlog_sweep(struct dispatch *d); /* the same for all */

/* places.c */
void places_set(struct subscription *s, struct layout l);              /* exactly those */
struct place *places_need(struct subscription *s, uint32_t partition); /* finds or makes */
void place_forget_held(struct place *pl); /* what was in flight is no more */

/* layouts.c: the tenant's partitions are changed: from one layout to the next */
/* This node hears of it: as the tenant's row says, or by an event of a partition not known. */
void layouts_heard(struct space *sp, struct layout l);
void layouts_heard_of(struct space *sp, uint32_t partition);
/* Something of it was settled, written or read: has it finished its layout? */
void layouts_check(struct subscription *s);
/* fn(arg) when the bus has told all layouts anew, or could not (ok false). */
void layouts_ask(struct space *sp, void (*fn)(void *arg, bool ok), void *arg);
/* What is known of the layout from this partition on: *heads are its. n 0 = nothing. */
struct layout layouts_from(const struct space *sp, uint32_t partition,
                           const struct layout_head **heads);
void layouts_free(struct layouts *l);

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
void filter_set_until(struct filter *f, const struct positions *until);
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
void away_detach(struct subscription *s);   /* from its owner, whoever that was */
void away_lost(struct subscription *s);     /* the same, and look for another */
void arrivals_pump(struct subscription *s); /* consumers, or their room, may have changed */
void away_settled(struct place *pl, uint64_t seq);
void away_result(struct place *pl, uint64_t seq, enum peer_result result, struct slice reason);
void away_park(struct subscription *s, const struct consumer *gone);
void away_forget_rows(struct subscription *s); /* queue: the bus is down */
void away_room(struct subscription *s);        /* its link takes more again */
void away_sweep(struct subscription *s);
void away_on_message(struct dispatch *d, const struct id128 *peer, const struct peer_message *m);
bool away_is_from(const struct subscription *s, const struct id128 *owner);

/* handover.c: from one owner to the next */
void handover_begin(struct subscription *s, bool created); /* just claimed */
void handover_heard(struct remote *r);                     /* it told all, or is gone */
void handover_ask_again(struct remote *r); /* the question may not have got through */
/* Tell a node what is in flight here, and what was settled lately. s NULL: nothing. False = not all
 * of it could be sent. */
bool handover_tell(struct dispatch *d, const struct id128 *to, const struct peer_message *asked,
                   struct subscription *s);

/* peers.c */
bool peer_send(struct dispatch *d, const struct id128 *to, const struct peer_message *m);
void peer_send_all(struct dispatch *d, const struct peer_message *m);
bool peer_is_up(const struct dispatch *d, const struct id128 *peer);
struct peer_message share_message(const struct subscription *s, enum peer_type type);
struct peer_message session_message(const struct session *s, uint64_t now_ms); /* OPENED */
/* What a peer calls an event of a place. */
struct peer_delivery peer_delivery_of(const struct place *pl, uint64_t seq, uint64_t stamp);

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

/* starts.c: where does a new position begin, and in which layout? Asks the bus where this node does
 * not know. done gets them (borrowed), or NULL: not now, try again. */
void starts_find(struct space *sp, enum session_start_at at, uint64_t value,
                 void (*done)(void *arg, const struct positions *starts), void *arg);

struct bus_cursor *starts_cursors(const struct positions *starts); /* [layout.n]; free() */

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
	struct positions *until; /* NULL = not bounded, or not found yet */
	struct bus_policy policy;
	bool begins;                /* these are the session's first filters */
	struct positions *starts;   /* of its new filters */
	struct bus_cursor *cursors; /* begins: the same */
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
	uint64_t opened_ms;     /* its connection was, clock_now_ms() */
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

	struct packet_ids ids;
	uint64_t ack_due_ms; /* no slot is due before */
	bool watched;        /* on dispatch->watched */
	LIST_ENTRY(session) watch_link;
	struct op_list pending; /* SUBSCRIBE and UNSUBSCRIBE in order, one at work */
};

/* The session that a consumer is. */
static inline struct session *session_of(struct consumer *c)
{
	return (struct session *)c;
}

enum ending {
	END_ROW_DELETED,  /* the session is over */
	END_ROW_RELEASED, /* it goes on, elsewhere or later */
	END_ROW_LEFT,     /* the row is not ours to touch */
};

struct session *session_new(struct space *sp, const struct session_open *req);
void session_make_subscription(struct session *s);
void session_forget_conn(struct session *s);                            /* it has none any more */
void session_kick(struct session *s, uint8_t reason, const char *text); /* the one it has */
void session_park(struct session *s);                                   /* it has none */
/* Nobody is connected: it ends, or stays a while for a client that comes right back. */
void session_idle(struct session *s);
/* It leaves memory; the connection, if there is one, has been told. */
void session_end(struct session *s, enum ending how);
bool session_can_take(const struct session *s);
bool session_can_begin(const struct session *s); /* the same, and a packet id is free */
void session_send(struct session *s, const struct outgoing *out);
const struct filter *session_share_filter(const struct session *s,
                                          const struct subscription *share);
struct slice session_subject(const struct session *s);
bool session_consumes(const struct session *s); /* has a started connection */
void session_kill(struct session *s, uint8_t reason, const char *text); /* kicks, then frees */
void session_let_go(struct session *s); /* the same, and releases its row, which is ours */
void session_lost(struct session *s);   /* another node has its row, or had */
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
