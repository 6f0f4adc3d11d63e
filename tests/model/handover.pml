/* A shared subscription or queue from one owner to the next: node/delivery/{handover,remote,away,share}.c
 * with committer.c and failure.c, over the messages of node/peer/peer.h and links that cut.
 *
 * Each node has one session that consumes it. Events 0 .. EVENTS-1 are in the journal; with QUEUE a
 * delivery may fail: the event becomes a timer row, whose delivery is slot EVENTS+e, and when that fails
 * too, a dead letter. To a feed, a row is a slot like an event.
 *
 * What happens at most so often: CUTS of links, DEATHS (kill -9), DRAINS (SIGTERM), LOST commits whose
 * answer is lost (they land at any later time or never), QUITS of consumers with something in hand,
 * HUNG nodes, which answer nothing any more while their links stay up. With TIMEOUT the owner's wait for
 * HELD may run out at any time; without, only when nothing else goes on.
 *
 * What is promised is in the assertions: search for `assert`. A message under way when its link is cut may
 * still be delivered by the other side after this side has heard of the cut; so may what an owner sent that
 * then died. Where that has happened (`excused`) a client may see an event again; what stays is that no
 * owner sends what it could know to be over, that no event is lost, and that all that is written is.
 *
 * Errors that must be found: NO_WAIT, HELD_BLIND, HELD_LAST, DONE_UNTOLD, DOWN_KEEPS, NO_TIMER, NO_EPOCH,
 * RETURNED_FAILS, APART. DRAIN_BLIND (an owner that leaves lets go before all is written) does no harm
 * while it stays linked until the next owner has heard of it. */

#ifndef NODES
#define NODES 2
#endif
#ifndef EVENTS
#define EVENTS 2
#endif
#ifdef QUEUE
#define SLOTS (2 * EVENTS)
#else
#define SLOTS EVENTS
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef DRAINS
#define DRAINS 0
#endif
#ifndef LOST
#define LOST 0
#endif
#ifndef QUITS
#define QUITS 0
#endif
#ifndef HUNG
#define HUNG 0
#endif
#ifndef ROOM
#define ROOM 8 /* messages on a link in one direction */
#endif
#define NOBODY NODES
#define at(n, s) ((n) * SLOTS + (s))
#define link(a, b) ((a) * NODES + (b))
#define bit(i) (1 << (i))
#define is_row(s) ((s) >= EVENTS)

mtype = { UP, DOWN, OWNER, HELD, RELEASED, ATTACH, ATTACHED, REFUSED, CREDIT, DELIVER, SETTLE, DETACH };
mtype = { ACKED, NACKED, RETURNED };
mtype = { UNCLAIMED, ACTIVE, AWAY, GONE };   /* subscription.state */
mtype = { SEEKING, ASKED, LINKED };          /* away.link */
mtype = { FREE, SENT, DONE, FAILED };        /* what a node knows of a slot */

/* ---- the database */
byte owner = NOBODY, db_epoch;
byte commit_no;
byte acked;                  /* the cursor: slots that are settled, or have moved to a row; rows that are done */
byte row;                    /* timer rows, as bits of their slots */
byte dead_letter;            /* bits of the events */

/* ---- links: [from a to b] */
chan wire[NODES * NODES] = [ROOM] of { mtype, byte, byte, byte };
bool up[NODES * NODES];      /* a has heard that b is up */
bool broken[NODES * NODES];  /* what a sends to b gets lost */

/* ---- nodes */
mtype state[NODES] = UNCLAIMED;
bool dead[NODES], hung[NODES], leaving[NODES], yielding[NODES];
byte epoch[NODES], held_epoch[NODES], held_since[NODES];
byte known[NODES];           /* `acked`, as it was claimed or written */
byte number[NODES];
mtype st[NODES * SLOTS] = FREE;
byte holder[NODES * SLOTS] = NOBODY;
/* as owner, of its peers */
bool awaited[NODES * NODES], attached[NODES * NODES], credit[NODES * NODES];
/* as a member */
bool away[NODES], doubted[NODES];
mtype alink[NODES] = SEEKING;
byte aowner[NODES] = NOBODY;
mtype pending[NODES * SLOTS];   /* settled while ATTACH is on its way */
bool claiming[NODES];           /* its claim is done, its answer is on its way */
byte claimed[NODES], claimed_known[NODES], claimed_number[NODES]; /* the epoch; 0 = LOST */
bool writing[NODES];            /* a settlement is done, its answer is on its way */
bool write_ok[NODES];
byte w_acks[NODES], w_fails[NODES];
bool releasing[NODES];          /* the row is not released yet */
byte release_epoch[NODES];

/* ---- a commit whose answer was lost */
bool late;
byte late_me, late_epoch, late_number, late_acks, late_fails;

/* ---- what is checked */
bool has[NODES * SLOTS];        /* its client has it in hand */
byte settled_by[SLOTS] = NOBODY; /* whose client acknowledged it */
byte nacks[EVENTS];
bool excused;
byte cuts_left = CUTS, deaths_left = DEATHS, drains_left = DRAINS, lost_left = LOST, quits_left = QUITS;
byte hung_left = HUNG;

#define up_to(a, b) (up[link(a, b)])

inline send(a, b, what, x, y, z) {
	if
	:: up_to(a, b) && !broken[link(a, b)] ->
		assert(len(wire[link(a, b)]) < ROOM);
		wire[link(a, b)]!what(x, y, z)
	:: else
	fi
}

/* ---- settling, in one transaction: cursor, rows, dead letters, fenced by owner, epoch and commit_no */

#ifdef NO_EPOCH
#define fenced_in(n, e, no) true
#else
#define fenced_in(n, e, no) (owner == n && db_epoch == e && commit_no == no)
#endif

inline land(n, e, no, acks, fails, ok) {
	ok = fenced_in(n, e, no);
	if
	:: ok ->
		assert(owner == n && db_epoch == e);  /* no other owner writes */
		commit_no++;
		acked = acked | acks | fails;
		row = row & ~(acks | fails);
#ifdef QUEUE
		assert(!(fails & bit(0)) || nacks[0] >= 1);  /* an attempt that was made, and failed */
#if EVENTS > 1
		assert(!(fails & bit(1)) || nacks[1] >= 1);
#endif
#ifndef APART
		row = row | ((fails & (bit(EVENTS) - 1)) << EVENTS);
#endif
		assert(!(fails & bit(EVENTS)) || nacks[0] >= 2);
		dead_letter = dead_letter | (fails >> EVENTS);
#endif
	:: else
	fi
}

/* ---- the client */

/* excused: what was under way when a link was cut, or a wait ran out, or an owner was fenced */
inline to_client(n, s) {
	assert(!has[at(n, s)]);
	i = 0;
	do
	:: i < NODES ->
		assert(excused || !has[at(i, s)]);          /* in flight to one live consumer */
		i++
	:: else -> break
	od;
	i = 0;
	assert(excused || !(acked & bit(s)));               /* settled, and written down */
	assert(excused || settled_by[s] == NOBODY || dead[settled_by[s]]); /* settled */
	has[at(n, s)] = true
}

/* ---- away.c */

inline tell_held(n, m) {
	fly = 0; over = 0; i = 0;
	do
	:: i < SLOTS ->
		if
		:: st[at(n, i)] == SENT && holder[at(n, i)] == n -> fly = fly | bit(i)
#ifndef DONE_UNTOLD
		:: st[at(n, i)] == DONE -> over = over | bit(i)
#endif
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0;
	send(n, m, HELD, held_epoch[n], fly, over);
	fly = 0; over = 0
}

inline drop_pending(n) {
	i = 0;
	do
	:: i < SLOTS -> pending[at(n, i)] = 0; i++
	:: else -> break
	od;
	i = 0
}

inline away_attach(n) {
	if
	:: alink[n] == SEEKING && aowner[n] != NOBODY && up_to(n, aowner[n]) ->
		tell_held(n, aowner[n]);
		send(n, aowner[n], ATTACH, 0, 0, 0);
		alink[n] = ASKED
	:: else
	fi
}

inline away_begin(n, m) {
	if
	:: !away[n] ->
		away[n] = true; alink[n] = SEEKING; aowner[n] = NOBODY; epoch[n] = 0; known[n] = 0; number[n] = 0;
		i = 0;
		do
		:: i < NODES -> attached[link(n, i)] = false; credit[link(n, i)] = false; awaited[link(n, i)] = false; i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < SLOTS -> /* remotes_release */
			if
			:: st[at(n, i)] == SENT && holder[at(n, i)] != n -> st[at(n, i)] = FREE; holder[at(n, i)] = NOBODY
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	:: else
	fi;
	doubted[n] = false;
	state[n] = AWAY;
	if
	:: aowner[n] == m && alink[n] == LINKED
	:: else ->
		aowner[n] = m; alink[n] = SEEKING;
		drop_pending(n);
		away_attach(n)
	fi
}

inline away_detach(n) {
	alink[n] = SEEKING; aowner[n] = NOBODY;
	drop_pending(n)
}

inline report(n, s, what) {
	if
	:: alink[n] == LINKED -> send(n, aowner[n], SETTLE, held_epoch[n], s, what)
	:: alink[n] == ASKED -> pending[at(n, s)] = what
	:: else
	fi
}

/* ---- the owner */

/* A new generation, or a doubt: what is in flight and what is done stays known. */
inline suspend(n) {
	i = 0;
	do
	:: i < SLOTS ->
		if
		:: st[at(n, i)] == FAILED -> st[at(n, i)] = FREE
		:: else
		fi;
		i++
	:: else -> break
	od;
	writing[n] = false; w_acks[n] = 0; w_fails[n] = 0; write_ok[n] = false;
	state[n] = UNCLAIMED; held_epoch[n] = epoch[n];
	i = 0;
	do
	:: i < NODES ->
		awaited[link(n, i)] = false;
		if
		:: attached[link(n, i)] && !yielding[n] -> send(n, i, RELEASED, 0, 0, 0)
		:: else
		fi;
		attached[link(n, i)] = false; credit[link(n, i)] = false;
		i++
	:: else -> break
	od;
	i = 0
}

inline remote_free(n, m) {
	attached[link(n, m)] = false; credit[link(n, m)] = false; awaited[link(n, m)] = false;
	i = 0;
	do
	:: i < SLOTS ->
		if
		:: !away[n] && st[at(n, i)] == SENT && holder[at(n, i)] == m ->
#ifndef DOWN_KEEPS
			st[at(n, i)] = FREE; holder[at(n, i)] = NOBODY
#endif
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

/* SUB_CLAIM: what is free, its owner's own, or of an ended session; with the cursor and the rows. The
 * answer comes later. */
inline claim(n) {
	claiming[n] = true;
	if
	:: owner == NOBODY || owner == n || dead[owner] ->
		owner = n; db_epoch++;
		claimed[n] = db_epoch; claimed_known[n] = acked; claimed_number[n] = commit_no
	:: else -> claimed[n] = 0
	fi
}

inline on_claimed(n) {
	claiming[n] = false;
	if
	:: claimed[n] ->
		if
		:: held_epoch[n] + 1 != claimed[n] -> /* subscription_forget_held */
			held_since[n] = claimed[n] - 1;
			i = 0;
			do
			:: i < SLOTS ->
				excused = excused || st[at(n, i)] != FREE;
				st[at(n, i)] = FREE; holder[at(n, i)] = NOBODY; has[at(n, i)] = false;
				i++
			:: else -> break
			od;
			i = 0
		:: else
		fi;
		away[n] = false; doubted[n] = false; alink[n] = SEEKING; aowner[n] = NOBODY;
		drop_pending(n);
		epoch[n] = claimed[n]; known[n] = claimed_known[n]; number[n] = claimed_number[n]; state[n] = ACTIVE;
		/* handover_begin */
		i = 0;
		do
		:: i < NODES ->
			attached[link(n, i)] = false; credit[link(n, i)] = false;
#ifndef NO_WAIT
			awaited[link(n, i)] = up_to(n, i);
#endif
			send(n, i, OWNER, epoch[n], 0, 0);
			i++
		:: else -> break
		od;
		i = 0
	:: else ->
		if
		:: owner != n && owner != NOBODY -> away_begin(n, owner)
		:: else
		fi
	fi;
	claimed[n] = 0; claimed_known[n] = 0; claimed_number[n] = 0
}

#define none_awaited(n) (!awaited[link(n, 0)] && !awaited[link(n, 1)] && (NODES < 3 || !awaited[link(n, NODES - 1)]))

/* Waits to be delivered, as far as its owner knows. A row is read where it is. */
#define is_due(n, s) (st[at(n, s)] == FREE && \
	(is_row(s) -> (row & bit(s)) != 0 : !(known[n] & bit(s))))

inline adopt(n, m, s, is_over) {
	if
	:: st[at(n, s)] == FREE && !(known[n] & bit(s)) && (!is_row(s) || (row & bit(s))) ->
		if
		:: is_over -> st[at(n, s)] = DONE
		:: else -> st[at(n, s)] = SENT; holder[at(n, s)] = m
		fi
	:: st[at(n, s)] == SENT && holder[at(n, s)] == m && is_over ->
		st[at(n, s)] = DONE; holder[at(n, s)] = NOBODY
	:: else
	fi
}

inline on_held(n, m, e, flying, done) {
	if
	:: state[n] == ACTIVE ->
		fly = flying; over = done;
		if
#ifdef HELD_BLIND
		:: true -> fly = 0; over = 0
#else
#ifdef HELD_LAST
		:: e != epoch[n] && e + 1 != epoch[n] -> fly = 0; over = 0
#else
		:: e < held_since[n] || e > epoch[n] -> fly = 0; over = 0
#endif
#endif
		:: else
		fi;
		i = 0;
		do
		:: i < SLOTS ->
			if
			:: fly & bit(i) -> adopt(n, m, i, false)
			:: over & bit(i) -> adopt(n, m, i, true)
			:: else -> /* told_all: it was not named */
				if
				:: st[at(n, i)] == SENT && holder[at(n, i)] == m -> st[at(n, i)] = FREE; holder[at(n, i)] = NOBODY
				:: else
				fi
			fi;
			i++
		:: else -> break
		od;
		i = 0; fly = 0; over = 0;
		awaited[link(n, m)] = false
	:: else
	fi
}

inline settle(n, m, e, s, what) {
	if
	:: state[n] == ACTIVE && epoch[n] == e && st[at(n, s)] == SENT && holder[at(n, s)] == m ->
		holder[at(n, s)] = NOBODY;
		if
		:: what == ACKED -> st[at(n, s)] = DONE
#ifdef RETURNED_FAILS
		:: what == RETURNED -> st[at(n, s)] = FAILED
#else
		:: what == RETURNED -> st[at(n, s)] = FREE
#endif
		:: what == NACKED -> st[at(n, s)] = FAILED
		fi
	:: else
	fi
}

inline away_lost(n) {
	away_detach(n)   /* and it may be claimed, which it is by itself when that can do something */
}

inline on_owner(n, m, e) {
	if
	:: state[n] == GONE || (state[n] == ACTIVE && epoch[n] >= e) ->
		send(n, m, HELD, 0, 0, 0)
	:: state[n] == ACTIVE && epoch[n] < e -> /* others_check: is it ours still? */
		if
		:: owner == n && db_epoch == epoch[n]
		:: else -> suspend(n); epoch[n] = 0
		fi
	:: state[n] != GONE && state[n] != ACTIVE ->
		if
		:: away[n] && alink[n] == LINKED && aowner[n] != m -> doubted[n] = true
		:: else ->
			if
			:: away[n] -> away_detach(n)
			:: else
			fi;
			away_begin(n, m)
		fi
	fi
}

inline on_deliver(n, m, e, s) {
	if
	:: away[n] && aowner[n] == m && alink[n] == LINKED && held_epoch[n] == e && state[n] != GONE ->
		if
		:: st[at(n, s)] == DONE -> report(n, s, ACKED)
		:: st[at(n, s)] != DONE && st[at(n, s)] != FREE
		:: st[at(n, s)] == FREE && leaving[n] -> report(n, s, RETURNED)
		:: else ->
			to_client(n, s);
			st[at(n, s)] = SENT; holder[at(n, s)] = n
		fi
	:: else -> send(n, m, SETTLE, e, s, RETURNED)
	fi
}

inline on_attached(n, m, e) {
	if
	:: away[n] && aowner[n] == m && alink[n] == ASKED ->
		i = 0;
		do
		:: i < SLOTS ->
			if
			:: st[at(n, i)] == DONE && held_epoch[n] != e && held_epoch[n] + 1 != e -> st[at(n, i)] = FREE
			:: else
			fi;
			i++
		:: else -> break
		od;
		if
		:: held_epoch[n] != e && held_epoch[n] + 1 != e -> held_since[n] = e
		:: else
		fi;
		held_epoch[n] = e; alink[n] = LINKED;
		i = 0;
		do
		:: i < SLOTS ->
			if
			:: pending[at(n, i)] != 0 -> send(n, m, SETTLE, e, i, pending[at(n, i)]); pending[at(n, i)] = 0
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0;
		if
		:: !leaving[n] -> send(n, m, CREDIT, e, 1, 0)
		:: else
		fi
	:: else
	fi
}

inline received(n, m, what, x, y, z) {
	if
	:: what == UP ->
		up[link(n, m)] = true;
		if
		:: away[n] && aowner[n] == m && state[n] != GONE -> away_attach(n)
		:: else
		fi
	:: what == DOWN ->
		up[link(n, m)] = false;
		if
		:: !broken[link(n, m)] -> broken[link(n, m)] = true; wire[link(n, m)]!DOWN(0, 0, 0)
		:: else
		fi;
		if
		:: away[n] && aowner[n] == m && state[n] != GONE -> away_lost(n)
		:: else
		fi;
		remote_free(n, m)
	:: what == OWNER -> on_owner(n, m, x)
	:: what == HELD -> on_held(n, m, x, y, z)
	:: what == RELEASED ->
		if
		:: away[n] && aowner[n] == m && state[n] != GONE -> away_lost(n)
		:: else
		fi
	:: what == ATTACH ->
		if
		:: state[n] == ACTIVE && !yielding[n] ->
			attached[link(n, m)] = true; credit[link(n, m)] = false;
			send(n, m, ATTACHED, epoch[n], 0, 0)
		:: else -> send(n, m, REFUSED, 0, 0, 0)
		fi
	:: what == ATTACHED -> on_attached(n, m, x)
	:: what == REFUSED ->
		if
		:: away[n] && aowner[n] == m && state[n] != GONE -> away_detach(n)
		:: else
		fi
	:: what == CREDIT ->
		if
		:: state[n] == ACTIVE && epoch[n] == x && attached[link(n, m)] -> credit[link(n, m)] = (y != 0)
		:: else
		fi
	:: what == DELIVER -> on_deliver(n, m, x, y)
	:: what == SETTLE -> settle(n, m, x, y, z)
	:: what == DETACH -> remote_free(n, m)
	fi
}

/* In hand, settled and not written, or on its way to be. */
inline look(n) {
	fly = 0; over = 0; i = 0;
	do
	:: i < SLOTS ->
		if
		:: st[at(n, i)] == DONE -> over = over | bit(i)
		:: st[at(n, i)] == FAILED -> fly = fly | bit(i)
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

inline written(n) {
	i = 0;
	do
	:: i < SLOTS ->
		if
		:: (w_acks[n] | w_fails[n]) & bit(i) ->
			if
			:: st[at(n, i)] == DONE || st[at(n, i)] == FAILED -> st[at(n, i)] = FREE
			:: else
			fi
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0;
	known[n] = known[n] | w_acks[n] | w_fails[n];
	number[n]++
}

#define any_done(n) (st[at(n, 0)] == DONE || st[at(n, 0)] == FAILED || \
	st[at(n, SLOTS - 1)] == DONE || st[at(n, SLOTS - 1)] == FAILED || \
	(SLOTS > 2 && (st[at(n, 1)] == DONE || st[at(n, 1)] == FAILED || \
	st[at(n, SLOTS - 2)] == DONE || st[at(n, SLOTS - 2)] == FAILED)))
#define any_in_hand(n) (has[at(n, 0)] || has[at(n, SLOTS - 1)] || \
	(SLOTS > 2 && (has[at(n, 1)] || has[at(n, SLOTS - 2)])))
#define alive(n) (!dead[n] && !hung[n] && state[n] != GONE)
/* A claim that can do something: it is free, or its owner is not whom we know. */
#define may_claim(n) (alive(n) && !claiming[n] && !leaving[n] && \
	(state[n] == UNCLAIMED || (state[n] == AWAY && (alink[n] != LINKED || doubted[n]))) && \
	(owner == NOBODY || owner == n || dead[owner] || aowner[n] != owner || doubted[n]))
#define delivers(n, s) (alive(n) && state[n] == ACTIVE && none_awaited(n) && !yielding[n] && is_due(n, s))

inline receive(n, k) {
	wire[link(k, n)]?what(x, y, z);
	received(n, k, what, x, y, z);
	what = 0; x = 0; y = 0; z = 0
}

inline to_remote(n, k, s) {
	st[at(n, s)] = SENT; holder[at(n, s)] = k;
	send(n, k, DELIVER, epoch[n], s, 0)
}

inline client_acks(n, s) {
	has[at(n, s)] = false;
	settled_by[s] = n;
	if
	:: st[at(n, s)] == SENT && holder[at(n, s)] == n ->
		st[at(n, s)] = DONE; holder[at(n, s)] = NOBODY;
		if
		:: away[n] -> report(n, s, ACKED)
		:: else
		fi
	:: else
	fi
}

inline client_fails(n, s, why) {
	has[at(n, s)] = false;
	if
	:: st[at(n, s)] == SENT && holder[at(n, s)] == n ->
		holder[at(n, s)] = NOBODY;
		if
		:: state[n] == ACTIVE && why == NACKED -> st[at(n, s)] = FAILED
		:: state[n] == ACTIVE && why != NACKED -> st[at(n, s)] = FREE
		:: else ->
			st[at(n, s)] = FREE;
			if
			:: away[n] -> report(n, s, why)
			:: else
			fi
		fi
	:: else
	fi
}

inline forget(n) {
	i = 0;
	do
	:: i < SLOTS ->
		st[at(n, i)] = FREE; holder[at(n, i)] = NOBODY; has[at(n, i)] = false; pending[at(n, i)] = 0;
		i++
	:: else -> break
	od;
	i = 0;
	state[n] = GONE; away[n] = false; alink[n] = SEEKING; aowner[n] = NOBODY; epoch[n] = 0; doubted[n] = false;
	held_epoch[n] = 0; held_since[n] = 0; known[n] = 0; number[n] = 0; claiming[n] = false;
	claimed[n] = 0; claimed_known[n] = 0; claimed_number[n] = 0;
	writing[n] = false; write_ok[n] = false; w_acks[n] = 0; w_fails[n] = 0
}

inline die(n) {
	forget(n);
	dead[n] = true; releasing[n] = false; yielding[n] = false;
	do
	:: i < NODES ->
		if
		:: i != n ->
			awaited[link(n, i)] = false; attached[link(n, i)] = false; credit[link(n, i)] = false;
			do
			:: len(wire[link(i, n)]) > 0 -> wire[link(i, n)]?what(x, y, z)
			:: else -> break
			od;
			what = 0; x = 0; y = 0; z = 0;
			broken[link(i, n)] = true;
			if
			:: !broken[link(n, i)] -> broken[link(n, i)] = true; wire[link(n, i)]!DOWN(0, 0, 0)
			:: else
			fi
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

proctype node(byte n)
{
	byte i, s, x, y, z, fly, over;
	mtype what;
	bool ok;

end:	do
	/* what comes */
	:: atomic { !dead[n] && !hung[n] && n != 0 && nempty(wire[link(0, n)]) -> receive(n, 0) }
	:: atomic { !dead[n] && !hung[n] && n != 1 && nempty(wire[link(1, n)]) -> receive(n, 1) }
#if NODES > 2
	:: atomic { !dead[n] && !hung[n] && n != 2 && nempty(wire[link(2, n)]) -> receive(n, 2) }
#endif

	/* SUB_CLAIM, and its answer */
	:: atomic { may_claim(n) -> claim(n) }
	:: atomic { alive(n) && claiming[n] -> on_claimed(n) }

	/* an event for whoever has room */
	:: atomic { delivers(n, 0) -> s = 0; goto deliver }
#if SLOTS > 1
	:: atomic { delivers(n, 1) -> s = 1; goto deliver }
#endif
#if SLOTS > 2
	:: atomic { delivers(n, 2) -> s = 2; goto deliver }
	:: atomic { delivers(n, 3) -> s = 3; goto deliver }
#endif

	/* the client settles what it has */
	:: atomic { has[at(n, 0)] -> s = 0; goto client }
#if SLOTS > 1
	:: atomic { has[at(n, 1)] -> s = 1; goto client }
#endif
#if SLOTS > 2
	:: atomic { has[at(n, 2)] -> s = 2; goto client }
	:: atomic { has[at(n, 3)] -> s = 3; goto client }
#endif

	/* commit, or settle: one under way */
	:: atomic { alive(n) && state[n] == ACTIVE && !writing[n] && any_done(n) -> look(n);
		if
		:: over && fly -> fly = 0 /* the cursor alone */
		:: true
		fi;
		if
		:: land(n, epoch[n], number[n], over, fly, ok);
			writing[n] = true; write_ok[n] = ok; w_acks[n] = over; w_fails[n] = fly
		:: lost_left > 0 && !late -> /* UNKNOWN: only a new epoch tells */
			lost_left--;
			late = true; late_me = n; late_epoch = epoch[n]; late_number = number[n];
			late_acks = over; late_fails = fly;
			suspend(n)
		fi;
		ok = false; fly = 0; over = 0 }
	:: atomic { alive(n) && writing[n] && state[n] == ACTIVE ->
		if
		:: write_ok[n] -> written(n)
		:: else -> suspend(n); epoch[n] = 0
		fi;
		writing[n] = false; write_ok[n] = false; w_acks[n] = 0; w_fails[n] = 0 }

	/* the wait for HELD is over */
#ifndef NO_TIMER
#ifdef TIMEOUT
	:: atomic { alive(n) && state[n] == ACTIVE && !none_awaited(n) ->
#else
	:: atomic { timeout && alive(n) && state[n] == ACTIVE && !none_awaited(n) ->
		assert(hung_left < HUNG);           /* else all have told by themselves, or their links are down */
#endif
		excused = true;
		do
		:: i < NODES -> awaited[link(n, i)] = false; i++
		:: else -> break
		od;
		i = 0 }
#endif

	/* dispatch_leave() */
	:: atomic { drains_left > 0 && alive(n) && !leaving[n] ->
		drains_left--;
		leaving[n] = true;
		yielding[n] = state[n] == ACTIVE;
		if
		:: away[n] && alink[n] == LINKED -> send(n, aowner[n], CREDIT, held_epoch[n], 0, 0)
		:: else
		fi }
	/* yield(): in flight may be whatever likes */
#ifdef DRAIN_BLIND
	:: atomic { alive(n) && yielding[n] && state[n] == ACTIVE ->
#else
	:: atomic { alive(n) && yielding[n] && state[n] == ACTIVE && !writing[n] && !any_done(n) ->
#endif
		releasing[n] = true; release_epoch[n] = epoch[n];
		suspend(n);
		away_begin(n, NOBODY);
		yielding[n] = false }
	/* SUB_RELEASE; then the others are told */
	:: atomic { releasing[n] && !dead[n] ->
		releasing[n] = false;
		if
		:: owner == n && db_epoch == release_epoch[n] ->
			owner = NOBODY;
			do
			:: i < NODES -> send(n, i, RELEASED, 0, 0, 0); i++
			:: else -> break
			od;
			i = 0
		:: else
		fi;
		release_epoch[n] = 0 }
	/* its last client went, and its share with it */
	:: atomic { alive(n) && leaving[n] && state[n] == AWAY && alink[n] == LINKED && !claiming[n] &&
	            !releasing[n] && !any_in_hand(n) ->
		send(n, aowner[n], DETACH, 0, 0, 0);
		forget(n) }
	/* one that became an owner while it left */
	:: atomic { alive(n) && leaving[n] && !yielding[n] && state[n] == ACTIVE -> yielding[n] = true }

	/* kill -9 */
	:: atomic { deaths_left > 0 && !dead[n] -> deaths_left--; die(n); break }
	:: atomic { hung_left > 0 && alive(n) && owner != n -> hung_left--; hung[n] = true; break }
	od;
	goto over_end;

deliver:
	atomic {
		/* nothing that is over, as far as the database knows, leaves its owner */
		assert(owner != n || db_epoch != epoch[n] || !(acked & bit(s)));
		if
		:: !leaving[n] -> to_client(n, s); st[at(n, s)] = SENT; holder[at(n, s)] = n; s = 0
		:: n != 0 && credit[link(n, 0)] -> to_remote(n, 0, s); s = 0
		:: n != 1 && credit[link(n, 1)] -> to_remote(n, 1, s); s = 0
#if NODES > 2
		:: n != 2 && credit[link(n, 2)] -> to_remote(n, 2, s); s = 0
#endif
		:: leaving[n] -> s = 0
		fi;
		goto end
	}
client:
	atomic {
		if
		:: client_acks(n, s)
#ifdef QUEUE
		:: nacks[s % EVENTS] < 3 -> nacks[s % EVENTS] = nacks[s % EVENTS] + 1; client_fails(n, s, NACKED)
#endif
		:: quits_left > 0 -> quits_left--; client_fails(n, s, RETURNED)
		fi;
		s = 0;
		goto end
	}
over_end:
	skip
}

#if LOST
proctype landing()
{
	bool ok;
end:	do
	:: atomic { late ->
		if
		:: land(late_me, late_epoch, late_number, late_acks, late_fails, ok)
		:: true
		fi;
		ok = false; late = false; late_me = 0; late_epoch = 0; late_number = 0; late_acks = 0; late_fails = 0 }
	od
}
#endif

#if CUTS
/* A link, one of them. What was sent before it broke comes, then DOWN; what is sent later does not. */
proctype cutter(byte a; byte b)
{
end:	do
	:: atomic { cuts_left > 0 && !broken[link(a, b)] && !broken[link(b, a)] && up_to(a, b) && up_to(b, a) ->
		cuts_left--;
		excused = true;
		if
		:: broken[link(a, b)] = true; wire[link(a, b)]!DOWN(0, 0, 0)
		:: broken[link(b, a)] = true; wire[link(b, a)]!DOWN(0, 0, 0)
		:: broken[link(a, b)] = true; wire[link(a, b)]!DOWN(0, 0, 0);
		   broken[link(b, a)] = true; wire[link(b, a)]!DOWN(0, 0, 0)
		fi }
	:: atomic { broken[link(a, b)] && broken[link(b, a)] && !up_to(a, b) && !up_to(b, a) && !dead[a] && !dead[b] &&
	            empty(wire[link(a, b)]) && empty(wire[link(b, a)]) ->
		broken[link(a, b)] = false; broken[link(b, a)] = false;
		wire[link(a, b)]!UP(0, 0, 0);
		wire[link(b, a)]!UP(0, 0, 0) }
	od
}
#endif

#if NODES > 2
#define works(n) (alive(n) && !leaving[n])
#define any_works (works(0) || works(1) || works(2))
#define held_up(s) (hung[0] && has[at(0, s)] || hung[1] && has[at(1, s)] || hung[2] && has[at(2, s)])
#else
#define works(n) (alive(n) && !leaving[n])
#define any_works (works(0) || works(1))
#endif

#ifdef NO_TIMER
#define nobody_waits true
#else
#define waits(n) (alive(n) && state[n] == ACTIVE && !none_awaited(n))
#define nobody_waits (!waits(0) && !waits(1) && (NODES < 3 || !waits(NODES - 1)))
#endif

/* Somebody has it who will never say what became of it: until its link is cut. */
#define with_hung(s) (owner != NOBODY && st[at(owner, s)] == SENT && hung[holder[at(owner, s)]])

/* Nothing can go on: every event has ended, where there is anybody left who would take it. */
proctype rest()
{
	byte s;
	timeout && nobody_waits -> atomic {
		do
		:: any_works && s < EVENTS ->
			assert(with_hung(s) || (acked & bit(s)));
			assert(!(acked & bit(s)) || settled_by[s] != NOBODY
#ifdef QUEUE
			       || with_hung(s + EVENTS)
			       || (settled_by[s + EVENTS] != NOBODY && !(row & bit(s + EVENTS)))
			       || (dead_letter & bit(s))
#endif
			      );
			s++
		:: else -> break
		od }
}

init {
	atomic {
		byte a = 0, b = 0;
		do
		:: a < NODES ->
			b = 0;
			do
			:: b < NODES -> up[link(a, b)] = a != b; b++
			:: else -> break
			od;
			run node(a);
			a++
		:: else -> break
		od;
#if LOST
		run landing();
#endif
#if CUTS
		run cutter(0, 1);
#if NODES > 2
		run cutter(0, 2);
		run cutter(1, 2);
#endif
#endif
		run rest();
		a = 0; b = 0
	}
}
