/* When one node may end another's session: cluster/session_sql.c, done_renew() to end_other().
 *
 * Here there is time: a tick is a twelfth of the TTL. A holder renews when it likes; an observer looks
 * after each of its own successful renewals, at least TTL/6 after the look before, and ends the holder
 * once the counter stood still over six looks. Either may pause at any point (ticks pass and it does
 * nothing), and any answer may be lost.
 *
 * What is promised: a session ends only when its last stored renewal is a TTL old, and only when its
 * holder's own clock, which counts from before that renewal was sent, has told it to stop.
 *
 * Clocks run at the same speed here. That is not needed for safety: lease.pml ends sessions at any
 * moment. Switches: SUSPECT_LOOKS, FIVE_LOOKS, END_BLIND, FROM_ANSWER must be found. */

#define TTL 12
#define STEP 2   /* ticks between looks: TTL/6 */
#define OLD 15   /* ages stop here: all that matters is that they are past TTL */
#ifdef FIVE_LOOKS
#define LOOKS 5
#else
#define LOOKS 6
#endif

/* the holder's row in node_session */
bool live = true;
bool moved;          /* renewals changed since the observer's last look */
byte stored_age;     /* ticks since its last renewal was committed */

/* the holder */
bool asking;         /* a renewal is out */
bool committed;      /* and the database has done it */
byte asked_age;      /* ticks since it was submitted */
byte renewed_age;    /* ticks since renewed_ms: the submission of the last one known to have matched */

/* the observer */
bool known;          /* it has an entry for the holder */
byte still;
byte look_age = OLD; /* ticks since its last look */
byte own_age;        /* ticks since its own renewed_ms */
bool ending;         /* SESSION_END is on its way, with renewals=? as seen at `end_moved` = false */
bool end_moved;      /* renewals changed since the look that asked for it */

#ifdef SUSPECT_LOOKS
byte early = 1;      /* session_sql_suspect(): a look that did not wait, and counts */
#else
byte early = 0;
#endif

#define grow(age) age = (age < OLD -> age + 1 : OLD)

active proctype world()
{
	do
	:: !live -> break
	:: atomic { live -> /* a tick */
		grow(stored_age); grow(asked_age); grow(renewed_age); grow(look_age); grow(own_age);
		/* session_sql_tick(): not renewed in time: go_down() forgets the others */
		if
		:: own_age > TTL -> known = false; still = 0
		:: else
		fi
		}

	/* ---- the holder */
	:: atomic { !asking -> asking = true; committed = false; asked_age = 0 }
	:: atomic { asking && !committed -> /* SESSION_RENEW: renewals=renewals+1 WHERE .. AND state=1 */
		committed = true; moved = true; end_moved = true; stored_age = 0 }
	:: atomic { asking && committed -> asking = false;
#ifdef FROM_ANSWER
		renewed_age = 0
#else
		renewed_age = asked_age
#endif
		}
	:: atomic { asking -> asking = false } /* the answer is lost, or it was rolled back */

	/* ---- the observer */
	:: atomic { known -> known = false; still = 0 } /* lost its connection, or starts */
	:: atomic { (look_age >= STEP || early > 0) -> /* its own renewal matched; SESSION_LOOK; note_sighting() */
		if
		:: look_age < STEP -> early--
		:: else
		fi;
		look_age = 0; own_age = 0;
		if
		:: !known -> known = true; still = 0
		:: known && moved -> still = 0
		:: else -> still++
		fi;
		moved = false;
		if
		:: still >= LOOKS -> still = 0; ending = true; end_moved = false
		:: else
		fi }
	:: atomic { ending -> ending = false;
		/* SESSION_END: state=0 WHERE session_id=? AND state=1 AND renewals=? */
		if
#ifdef END_BLIND
		:: true ->
#else
		:: !end_moved ->
#endif
			live = false;
			assert(stored_age >= TTL);  /* a session that renewed within the TTL is not ended */
			assert(renewed_age >= TTL)  /* the holder's own TTL has run out: it has stopped */
#ifndef END_BLIND
		:: else
#endif
		fi }
	:: atomic { ending -> ending = false } /* or rolled back */
	od
}
