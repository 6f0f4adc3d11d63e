/* The journal writer's fence: cluster/writer.c over journal_sql.c and session_sql.c.
 *
 * One writer of one node appends PAYLOADS flushes, in order, and reports each: stored or refused.
 * Meanwhile commits are lost around COMMIT (UNKNOWN), the node's session is ended by others at any
 * moment and replaced by a new one, and the answers of resolves are lost too.
 *
 * The database is modelled weaker than any that is supported: a transaction whose answer is lost may
 * land at any later time, however much has happened since, or never; its statements are evaluated
 * when it lands. InnoDB holds the row's lock until then and Galera certifies, which only takes
 * possibilities away.
 *
 * Switches: PLAIN_LOOK, NO_FENCE, NO_STATE, NEW_SESSION_LOOK are errors that must be found. */

#ifndef PAYLOADS
#define PAYLOADS 2
#endif
#define SESSIONS 3 /* lives of the node's session, the first included */
#ifndef SLOTS
#define SLOTS 2    /* transactions whose answer is lost, at most */
#endif

/* table writer: one row a session */
byte row_flush[SESSIONS], row_fence[SESSIONS];
bool row_state[SESSIONS];

#define FENCES 3   /* a writer that is LOST asks again until its session is replaced: this often */

byte bus_session;            /* bus.session_id */
byte stored[PAYLOADS];       /* how often it is in the journal */
bool refused[PAYLOADS];      /* its publisher was told so */

typedef transaction {
	bool used;
	bool resolving; /* else an append */
	byte session, flush_no, fenced, payload
}
transaction slot[SLOTS];
byte slots_used;

#ifdef NO_FENCE
#define fence_matches(s, f) true
#else
#define fence_matches(s, f) (row_fence[s] == f)
#endif
#ifdef NO_STATE
#define may_append(s) true
#else
#define may_append(s) row_state[s]
#endif

/* What the transaction of work_append does when it commits. Its fence: UPDATE writer SET flush_no=:n
 * WHERE session_id=:s AND writer_no=? AND flush_no=:n-1 AND fence=:f AND state=1; then, in the same
 * transaction, the heads and JOURNAL_INSERT_*. Checked: every flush is stored once; none is after it
 * was reported refused (no ghost); an ended session appends nothing; a publisher's order holds. */
inline land_append(s, n, f, p, ok) {
	ok = row_flush[s] == n - 1 && fence_matches(s, f) && may_append(s);
	if
	:: ok ->
		row_flush[s] = n;
		stored[p] = stored[p] + 1;
		assert(stored[p] == 1);
		assert(!refused[p]);
		assert(row_state[s]);
		assert(p == 0 || stored[p - 1] || refused[p - 1])
	:: else
	fi
}

inline forget(i) {
	slot[i].used = false;
	slot[i].resolving = false;
	slot[i].session = 0;
	slot[i].flush_no = 0;
	slot[i].fenced = 0;
	slot[i].payload = 0
}

/* A lost transaction lands or is rolled back, whenever it likes. */
proctype landing(byte i)
{
	bool matched;
	byte in, no, fence, what;
end:	do
	:: atomic { slot[i].used && !slot[i].resolving ->
		in = slot[i].session;
		no = slot[i].flush_no;
		fence = slot[i].fenced;
		what = slot[i].payload;
		land_append(in, no, fence, what, matched);
		in = 0; no = 0; fence = 0; what = 0; matched = false;
		forget(i) }
	:: atomic { slot[i].used && slot[i].resolving ->
		row_fence[slot[i].session] = row_fence[slot[i].session] + 1;
		forget(i) }
	:: atomic { slot[i].used -> forget(i) }
	od
}

inline lose(is_resolve, s, n, f, p) {
	slot[slots_used].resolving = is_resolve;
	slot[slots_used].session = s;
	slot[slots_used].flush_no = n;
	slot[slots_used].fenced = f;
	slot[slots_used].payload = p;
	slot[slots_used].used = true;
	slots_used = slots_used + 1
}

/* Others end the session (WRITER_END and SESSION_END, one transaction) with or without reason, at any
 * moment; the node finds out when it renews (SESSION_RENEW does not match) and opens another. */
active proctype sessions()
{
	byte s = 0;
	do
	:: s < SESSIONS - 1 ->
		row_state[s] = false;
		s++;
		atomic { row_state[s] = true; bus_session = s } /* SESSION_BEGIN, WRITER_CREATE: 0, 0 */
		bus_session = s
	:: break
	od
}

/* cluster/writer.c */
active proctype writer()
{
	byte p = 0, mine = 0, flush = 0, fence = 0, asked = 0;
	byte sent = 0;        /* append.flush_no */
	bool matched, ask_only;

ready:	/* WRITER_READY: adopt_session(), send_append() */
	atomic {
		if
		:: p == PAYLOADS -> goto end
		:: else
		fi;
		if
		:: mine != bus_session -> mine = bus_session; flush = 0; fence = 0
		:: else
		fi;
		sent = flush + 1
	}
	if
	:: atomic { /* answered */
		land_append(mine, sent, fence, p, matched);
		if
		:: matched -> matched = false; goto answered
		:: else -> ask_only = true; goto unknown /* SQL_LOST */
		fi }
	:: atomic { slots_used < SLOTS ->   /* SQL_UNKNOWN */
		lose(false, mine, sent, fence, p);
		ask_only = false;
		goto unknown }
	:: goto ready /* SQL_RETRY: lost before COMMIT was sent; it never will be */
	:: atomic { true -> refused[p] = true; /* SQL_FATAL, of a single event: on_fatal() */
		assert(stored[p] == 0);
		p++; goto ready }
	fi;

answered:
	atomic {
		flush = sent;
		assert(stored[p] == 1); /* reported stored only if it is */
		p++;
		goto ready
	}

unknown: /* WRITER_UNKNOWN: send_resolve(), until it answers */
	if
	:: atomic { ask_only && mine != bus_session -> goto ready }
	:: atomic { !(ask_only && mine != bus_session) && (!ask_only || row_state[mine] || row_fence[mine] < FENCES) ->
#ifdef NEW_SESSION_LOOK
		if
		:: mine != bus_session -> mine = bus_session
		:: else
		fi;
#endif
#ifndef PLAIN_LOOK
		/* WRITER_RESOLVE: UPDATE writer SET fence=fence+1 WHERE session_id=? AND writer_no=? */
		row_fence[mine] = row_fence[mine] + 1;
#endif
		/* WRITER_READ, same transaction: on_known() */
		flush = row_flush[mine];
		fence = row_fence[mine];
		if
		:: !ask_only && flush >= sent -> sent = flush; goto answered
		:: else -> goto ready
		fi }
	:: atomic { slots_used < SLOTS -> lose(true, mine, 0, 0, 0) } /* its answer is lost as well */
	fi; /* a RETRY that did nothing is a step that is not taken */
	goto unknown;
end:
	skip
}

init {
	atomic {
		row_state[0] = true;
		byte i = 0;
		do
		:: i < SLOTS -> run landing(i); i++
		:: else -> break
		od
	}
}
