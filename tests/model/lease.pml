/* Who owns a subscription, and whose cursor commits count: session_sql.c, subscription_sql.c,
 * cursor_sql.c and node/delivery/committer.c; with ROLE, the leader's role by the same rule; with PROGRESS, that a dead owner's subscription
 * is claimed (one node may die for good, the other goes on).
 *
 * Two nodes, one subscription with one cursor. A session may be ended at any moment, with or without
 * reason: looks.pml has the rule for that, and nothing here may depend on it. A node stops between any
 * two of its steps for any time; with DEATHS it may die and come back with a new session. Any commit
 * may be lost (UNKNOWN).
 *
 * The database is modelled weaker than any that is supported: a transaction whose answer is lost may
 * land at any later time, however much has happened since, or never; its statements are evaluated
 * when it lands. InnoDB holds the rows' locks until then and Galera certifies, which only takes
 * possibilities away.
 *
 * Switches that take one of two guards away, and do no harm: SAME_EPOCH (an owner repeats an UNKNOWN
 * commit in its own epoch, where Leat drops everything and claims anew), READ_APART (the cursor is read
 * before the claim, not in its transaction), NO_COMMIT_NO. Errors that must be found: NO_COMMIT_NO
 * with one of the other two, NO_EPOCH, NO_FENCE, SWEEP, CLAIM_BLIND, CLAIM_LIVE; for progress
 * SWEEP_ONLY. */

#ifndef SESSIONS
#define SESSIONS 3 /* node_session rows, ever; 0 stands for NULL */
#endif
#ifndef EPOCHS
#define EPOCHS 3   /* claims, at most */
#endif
#ifndef EVENTS
#define EVENTS 2   /* events in the partition */
#endif
#ifndef SLOTS
#define SLOTS 1    /* transactions whose answer is lost, at most */
#endif

/* ---- the database */

bool live[SESSIONS + 1];                        /* node_session.state = 1 */
byte sub_owner, sub_epoch;                      /* subscription */
byte cur_owner, cur_epoch, commit_no, acked;    /* cursors */
byte sessions_made;

/* ---- what is checked */

byte accepted[EPOCHS + 2];   /* epoch -> the session whose write was accepted in it */

mtype = { COMMIT, CLAIM };
typedef transaction {
	bool used;
	mtype kind;
	byte me, epoch, number, through; /* CLAIM: number is the owner that was seen */
}
transaction slot[SLOTS];
byte slots_used;

#ifdef NO_EPOCH
#define epoch_matches(e) true
#else
#define epoch_matches(e) (cur_epoch == e)
#endif
#ifdef NO_FENCE
#define fence_matches(s, e) true
#else
#define fence_matches(s, e) (cur_owner == s && epoch_matches(e))
#endif
#if defined(NO_COMMIT_NO) || defined(ROLE)
#define number_matches(n) true
#else
#define number_matches(n) (commit_no == n)
#endif
#ifdef CLAIM_BLIND
#define claim_matches(s, e, o) (sub_owner == 0 || sub_owner == o)
#else
#ifdef SWEEP_ONLY
#define claim_matches(s, e, o) (sub_epoch == e && (sub_owner == 0 || sub_owner == s))
#else
#define claim_matches(s, e, o) (sub_epoch == e && (sub_owner == 0 || sub_owner == o))
#endif
#endif

/* CURSOR_COMMIT: UPDATE cursors SET acked_through=?,..,commit_no=commit_no+1
 *   WHERE .. AND owner=:me AND epoch=? AND commit_no=?
 * With ROLE it is UPDATE role SET writes=writes+1 WHERE role=? AND owner=:me AND epoch=?, and what the
 * leader does in the same transaction.
 * Checked when it takes effect: the epoch is not a stale one; all writes accepted in an epoch are one
 * session's; the cursor does not move back. */
inline land_commit(s, e, n, to, ok) {
	ok = fence_matches(s, e) && number_matches(n);
	if
	:: ok ->
		assert(e == sub_epoch);
		assert(accepted[e] == 0 || accepted[e] == s);
		accepted[e] = s;
#ifndef ROLE
		assert(to >= acked);
		acked = to;
		commit_no = commit_no + 1;
#endif
	:: else
	fi
}

/* SUB_CLAIM: UPDATE subscription SET owner=:me,epoch=epoch+1
 *   WHERE .. AND epoch=:seen AND (owner IS NULL OR owner=:dead)
 * CURSOR_CLAIM: UPDATE cursors SET owner=:me,epoch=:seen+1
 * Checked: what is taken was released, or its owner's session is over, or it is the claimer's own.
 * (That the claimer's session still lives is not checked, here or there: it need not.) */
inline land_claim(s, e, o, ok) {
	ok = claim_matches(s, e, o);
	if
	:: ok ->
		assert(sub_owner == 0 || sub_owner == s || !live[sub_owner]);
		sub_owner = s;
		sub_epoch = sub_epoch + 1;
		cur_owner = s;
		cur_epoch = e + 1;
	:: else
	fi
}

inline lose(what, s, e, n, to) {
	slot[slots_used].kind = what;
	slot[slots_used].me = s;
	slot[slots_used].epoch = e;
	slot[slots_used].number = n;
	slot[slots_used].through = to;
	slot[slots_used].used = true;
	slots_used = slots_used + 1
}

inline forget(i) {
	slot[i].used = false;
	slot[i].kind = 0;
	slot[i].me = 0;
	slot[i].epoch = 0;
	slot[i].number = 0;
	slot[i].through = 0
}

/* A lost transaction lands or is rolled back, whenever it likes. */
proctype landing(byte i)
{
	bool ok;
	byte s, e, n, to;
end:	do
	:: atomic { slot[i].used ->
		s = slot[i].me;
		e = slot[i].epoch;
		n = slot[i].number;
		to = slot[i].through;
		if
		:: slot[i].kind == COMMIT -> land_commit(s, e, n, to, ok)
		:: slot[i].kind == CLAIM -> land_claim(s, e, n, ok)
		fi;
		s = 0; e = 0; n = 0; to = 0; ok = false;
		forget(i) }
	:: atomic { slot[i].used -> forget(i) }
	od
}

/* SESSION_END, by whomever, at any moment. For progress: every session of a dead node in the end, and
 * one that did not deserve it. */
bool dead[3];             /* nodes that died for good */
byte maker[SESSIONS + 1]; /* session -> node */
byte unjust = 1;

proctype ender(byte s)
{
#ifdef PROGRESS
end:	atomic { live[s] && (dead[maker[s]] || unjust) ->
		if
		:: dead[maker[s]]
		:: else -> unjust--
		fi;
		live[s] = false }
#else
end:	atomic { live[s] -> live[s] = false }
#endif
#ifdef SWEEP
	/* a sweep: the subscriptions of the dead are listed, then freed */
	if
	:: sub_owner == s
	:: else -> goto end_over
	fi;
	atomic {
		assert(sub_owner == 0 || !live[sub_owner]); /* a live owner keeps its lease */
		sub_owner = 0 }
#endif
#ifdef SWEEP_ONLY
	atomic {
		if
		:: sub_owner == s -> sub_owner = 0
		:: else
		fi
	}
#endif
end_over:
	skip
}

/* ---- a node */

proctype node(byte id)
{
	byte me;                       /* bus.session_id; 0 = none */
	bool owns;                   /* the subscription is SUBSCRIPTION_ACTIVE */
	byte epoch, number, done, sent; /* its epoch, commit_no, what its consumers acknowledged, was sent */
	byte seen_owner, seen_epoch, seen_acked;
	bool ok, closed;

end:	do
	/* session_open(): a new random id each time */
	:: atomic { me == 0 && sessions_made < SESSIONS ->
		sessions_made++;
		me = sessions_made;
		maker[me] = id;
		live[me] = true }

	/* SESSION_RENEW does not match: on_lost_session(): go_down() */
	:: atomic { me != 0 && !live[me] ->
		me = 0; owns = false; epoch = 0; number = 0; done = 0; sent = 0 }

	/* SUB_FIND, a plain read: free is what has no owner, or one that is not live, or is ours */
	:: atomic { me != 0 && !owns && sub_epoch < EPOCHS &&
#ifdef CLAIM_LIVE
	            true
#else
#ifdef SWEEP_ONLY
	            (sub_owner == 0 || sub_owner == me)
#else
	            (sub_owner == 0 || sub_owner == me || !live[sub_owner])
#endif
#endif
	            ->
		seen_owner = sub_owner;
		seen_epoch = sub_epoch;
#ifdef READ_APART
		seen_acked = acked; number = commit_no;
#endif
	   };
	   if
	   :: atomic { true -> land_claim(me, seen_epoch, seen_owner, ok);
		if
		:: ok -> /* CURSOR_READ, same transaction */
			owns = true;
			epoch = seen_epoch + 1;
#ifdef READ_APART
			done = seen_acked;
#else
			done = acked; number = commit_no;
#endif
			sent = done;
		:: else -> skip /* RETRY */
		fi;
		ok = false; seen_owner = 0; seen_epoch = 0; seen_acked = 0 }
	   :: atomic { slots_used < SLOTS -> /* UNKNOWN: BUS_DOWN, and claimed anew */
		lose(CLAIM, me, seen_epoch, seen_owner, 0);
		seen_owner = 0; seen_epoch = 0; seen_acked = 0; number = 0 }
	   fi

	/* a consumer acknowledges an event */
	:: atomic { owns && done < EVENTS -> done++ }

	/* committer.c: one write in flight per cursor */
	:: atomic { owns && (done > sent) ->
		land_commit(me, epoch, number, done, ok);
		if
		:: ok -> number++; sent = done
		:: else -> owns = false; epoch = 0; number = 0; done = 0; sent = 0 /* fenced: dropped */
		fi;
		ok = false }
	:: atomic { owns && done > sent && slots_used < SLOTS -> /* UNKNOWN */
		lose(COMMIT, me, epoch, number, done);
#ifndef SAME_EPOCH
		/* the connection is lost, which is a new generation: BUS_DOWN, claimed anew */
		owns = false; epoch = 0; number = 0; done = 0; sent = 0
#endif
		}

	/* SUB_RELEASE: UPDATE subscription SET owner=NULL WHERE .. AND owner=:me AND epoch=? */
	:: atomic { owns && !closed ->
		closed = true;
		if
		:: sub_owner == me && sub_epoch == epoch ->
			sub_owner = 0
		:: else
		fi;
		owns = false; epoch = 0; number = 0; done = 0; sent = 0 }

#ifdef DEATHS
	/* kill -9, and a new life */
	:: atomic { me != 0 -> me = 0; owns = false; epoch = 0; number = 0; done = 0; sent = 0 }
#endif
#ifdef PROGRESS
	:: atomic { id == 1 -> dead[1] = true; break }
#endif
	od
}

#ifdef PROGRESS
/* Nothing that could go on is left: the subscription has an owner, and a live one. That it comes to
 * this is checked by there being no cycle at all. */
active proctype rest()
{
	timeout -> assert(sub_owner != 0 && live[sub_owner])
}
#endif

init {
	atomic {
		byte i = 0;
		do
		:: i < SLOTS -> run landing(i); i++
		:: else -> break
		od;
		i = 1;
		do
		:: i <= SESSIONS -> run ender(i); i++
		:: else -> break
		od;
		run node(1);
		run node(2)
	}
}
