/* What is due moves from `timer` into the journal once: cluster/fire_sql.c and role_sql.c.
 *
 * Two nodes want the role of the leader of timers. A session may be ended at any moment, with or without
 * reason, and then its role is free to claim, while its node has not noticed and goes on. A leader reads
 * which rows are due, and in one transaction writes the role, deletes what it read, counts that, and
 * appends. Publishers cancel rows meanwhile. Any commit may be lost (UNKNOWN): then it lands at any
 * later time or never, and the leader just asks again.
 *
 * What is promised: each timer is in the journal once, or was cancelled, never both; nothing is written
 * in an epoch of the role that is over; in the end nothing that is due waits. Errors that must be
 * found: NO_COUNT, NO_FENCE, APART. READ_AGAIN does no harm: a leader that repeats an UNKNOWN transaction
 * with the rows it read then, instead of reading anew. */

#ifndef TIMERS
#define TIMERS 2
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
#ifndef SLOTS
#define SLOTS 2       /* transactions whose answer is lost, at most */
#endif
#define SESSIONS 3    /* ever; 0 stands for NULL */
#define ALL ((1 << TIMERS) - 1)

/* ---- the database */
bool live[SESSIONS + 1];
byte sessions_made;
byte role_owner, role_epoch;
byte rows = ALL;          /* timer, as a set */
byte journal[TIMERS];     /* how often it was appended */
byte cancelled;           /* whose publisher was told that they are cancelled */

typedef transaction {
	bool used;
	byte me, epoch, read
}
transaction slot[SLOTS];
byte slots_used;

#define count(x) (((x) & 1) + (((x) >> 1) & 1) + (((x) >> 2) & 1))

#ifdef NO_FENCE
#define fence_matches(s, e) true
#else
#define fence_matches(s, e) (role_owner == s && role_epoch == e)
#endif
#ifdef NO_COUNT
#define count_matches(set) true
#else
#define count_matches(set) (count(set & rows) == count(set))
#endif

inline append(set) {
	i = 0;
	do
	:: i < TIMERS ->
		if
		:: set & (1 << i) ->
			journal[i] = journal[i] + 1;
			assert(journal[i] == 1);               /* moved once */
			assert(!(cancelled & (1 << i)))        /* or cancelled */
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

/* ROLE_WRITE, FIRE_DELETE and its count, JOURNAL_INSERT: one transaction */
inline land_fire(s, e, set, ok) {
	ok = fence_matches(s, e) && count_matches(set);
	if
	:: ok ->
		assert(e == role_epoch);    /* no write of an epoch that is over */
		rows = rows & (ALL - set);
		append(set)
	:: else
	fi
}

proctype landing(byte k)
{
	bool ok;
	byte i, by, in, what;
end:	do
	:: atomic { slot[k].used ->
		by = slot[k].me; in = slot[k].epoch; what = slot[k].read;
		land_fire(by, in, what, ok);
		ok = false; by = 0; in = 0; what = 0;
		slot[k].used = false; slot[k].me = 0; slot[k].epoch = 0; slot[k].read = 0 }
	:: atomic { slot[k].used ->
		slot[k].used = false; slot[k].me = 0; slot[k].epoch = 0; slot[k].read = 0 }
	od
}

proctype ender(byte s)
{
end:	atomic { live[s] && s < SESSIONS -> live[s] = false } /* one is left for the end */
}

/* TIMER_CANCEL: the publisher is told that it was there, or that it was not */
proctype canceller()
{
	atomic {
		if
		:: rows & 1 -> rows = rows & (ALL - 1); cancelled = 1
		:: else
		fi
	}
}

proctype node()
{
	byte me, epoch, read, i;
	bool ok;

end:	do
	:: atomic { me == 0 && sessions_made < SESSIONS ->
		sessions_made++; me = sessions_made; live[me] = true }
	:: atomic { me != 0 && !live[me] && read == 0 -> me = 0; epoch = 0 } /* it notices, some time */
	/* ROLE_FIND, ROLE_CLAIM (lease.pml -DROLE has what may come between) */
	:: atomic { me != 0 && epoch == 0 && role_epoch < EPOCHS && (role_owner == 0 || !live[role_owner]) ->
		role_owner = me; role_epoch++; epoch = role_epoch }
	:: atomic { epoch != 0 && (epoch != role_epoch || role_owner != me) && read == 0 -> epoch = 0 } /* LOST */
	/* FIRE_DUE: any of what is due, as much as a transaction takes */
	:: atomic { epoch != 0 && read == 0 && rows != 0 ->
		if
		:: read = rows
		:: rows & 1 -> read = 1
		:: rows & 2 -> read = 2
		fi }
	:: atomic { read != 0 ->
		land_fire(me, epoch, read, ok);
		if
		:: ok
		:: !ok && fence_matches(me, epoch) /* RETRY: all of it again */
		:: !ok && !(fence_matches(me, epoch)) -> epoch = 0
		fi;
		ok = false; read = 0 }
	:: atomic { read != 0 && slots_used < SLOTS ->  /* UNKNOWN: ask again */
		slot[slots_used].me = me; slot[slots_used].epoch = epoch; slot[slots_used].read = read;
		slot[slots_used].used = true;
		slots_used++;
#ifndef READ_AGAIN
		read = 0
#endif
		}
#ifdef APART
	/* deleted in one transaction, appended in the next: the node dies between */
	:: atomic { read != 0 && fence_matches(me, epoch) ->
		rows = rows & (ALL - read); read = 0; epoch = 0; me = 0 }
#endif
	od
}

active proctype rest()
{
	byte k;
	timeout -> atomic {
		assert(rows == 0 || role_epoch == EPOCHS || sessions_made == 0);
		do
		:: k < TIMERS ->
			assert((rows & (1 << k)) || journal[k] == 1 || (cancelled & (1 << k)));
			k++
		:: else -> break
		od }
}

init {
	atomic {
		byte k = 0;
		do
		:: k < SLOTS -> run landing(k); k++
		:: else -> break
		od;
		k = 1;
		do
		:: k <= SESSIONS -> run ender(k); k++
		:: else -> break
		od;
		run canceller();
		run node();
		run node()
	}
}
