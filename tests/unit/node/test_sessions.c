/* Sessions where things go wrong: what a hostile reading of the delivery side found, one test each.
 * The bus is the memory backend behind operations of our own that fail when told to. */
#include "tests/unit/node/rig.h"

#include "tenancy/topic.h"

static struct node *the_node;
static struct bus_ops faulty_ops;
static const struct bus_ops *real_ops;
static struct {
	int retry_claims;    /* so many claims are not made */
	int retry_changes;   /* so many changes are not made */
	int unknown_commits; /* so many commits are stored, and nobody is told */
	void (*commit_done)(struct bus_commit *);
} faults;

static void finish_change(void *arg)
{
	struct bus_change *req = arg;

	req->done(req);
}

static void faulty_change(struct bus *bus, struct bus_change *req)
{
	if (faults.retry_changes <= 0) {
		real_ops->change(bus, req);
		return;
	}
	faults.retry_changes--;
	req->outcome = SQL_RETRY;
	loop_defer(the_node->loop, finish_change, req);
}

static void finish_claim(void *arg)
{
	struct bus_claim *req = arg;

	req->done(req);
}

static void faulty_claim(struct bus *bus, struct bus_claim *req)
{
	if (faults.retry_claims <= 0) {
		real_ops->claim(bus, req);
		return;
	}
	faults.retry_claims--;
	req->outcome = SQL_RETRY;
	req->memory = NULL;
	req->cursors = NULL;
	req->n_cursors = 0;
	loop_defer(the_node->loop, finish_claim, req);
}

static void on_unknown_commit(struct bus_commit *req)
{
	req->outcome = SQL_UNKNOWN;
	faults.commit_done(req);
}

static void faulty_commit(struct bus *bus, struct bus_commit *req)
{
	if (faults.unknown_commits > 0) {
		faults.unknown_commits--;
		faults.commit_done = req->done;
		req->done = on_unknown_commit;
	}
	real_ops->commit(bus, req);
}

static void make_faulty(struct node *n)
{
	the_node = n;
	real_ops = n->bus->ops;
	faulty_ops = *real_ops;
	faulty_ops.claim = faulty_claim;
	faulty_ops.change = faulty_change;
	faulty_ops.commit = faulty_commit;
	n->bus->ops = &faulty_ops;
	memset(&faults, 0, sizeof faults);
}

static void turns(struct node *n, int count)
{
	while (count--)
		loop_turn(n->loop);
}

/* Retention took what waited to be sent: a reader that came for it read for ever. */
static void test_retention_takes_what_waits(void **state)
{
	struct node n;
	struct client c = {0};
	struct dispatch_stats stats;

	(void)state;
	node_init_keeping(&n, 20000, 0, 50000);
	connect_as(&n, &c, "c", false, 3600, 10);
	subscribe(&c, "#", 1);
	c.deaf = true;
	publish_many(&n, "t", 0, 1000);
	c.deaf = false;
	session_writable(c.session);
	until(&n, c.n_got && c.got[c.n_got - 1].n == 999);
	dispatch_get_stats(n.dispatch, &stats);
	assert_true(stats.catch_up_reads < 100);
	publish_many(&n, "t", 1000, 1010);
	until(&n, c.got[c.n_got - 1].n == 1009);
	free(c.got);
	node_release(&n);
}

/* Every event was delivered, or told of as gone, once, right before the next one. */
static void test_gap_is_told_once(void **state)
{
	struct node n;
	struct client c = {0};
	struct dispatch_stats stats;
	unsigned next = 0;
	unsigned gaps = 0;

	(void)state;
	node_init_keeping(&n, 20000, 0, 50000);
	connect_as(&n, &c, "c", false, 3600, 10);
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 10);
	until(&n, c.n_got == 10);
	turns(&n, 5); /* it has acknowledged them */
	disconnect(&c, 3600);
	publish_many(&n, "t", 10, 2000);
	free(c.got);
	c.got = NULL;
	connect_as(&n, &c, "c", false, 3600, 10);
	publish_many(&n, "t", 2000, 2010);
	until(&n, c.n_got && c.got[c.n_got - 1].n == 2009);
	next = 10;
	for (size_t i = 0; i < c.n_got; i++) {
		assert_int_equal(c.got[i].n, next + c.got[i].gap);
		gaps += c.got[i].gap != 0;
		next = c.got[i].n + 1;
	}
	assert_int_equal(gaps, 1);
	dispatch_get_stats(n.dispatch, &stats);
	assert_int_equal(stats.gaps, 1);
	assert_int_equal(stats.gap_events, 2000 - c.n_got);
	free(c.got);
	node_release(&n);
}

/* Packet ids of shared deliveries that went to others came never free: the 65,536th hung the node.
 */
static void test_packet_ids_come_free(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", false, 3600, 500);
	subscribe(&c, "$share/g/#", 1);
	publish_many(&n, "t", 0, 600);
	until(&n, c.n_got == 600);
	c.auto_ack = false;
	c.never_ack = true;
	publish_many(&n, "t", 0, 600);
	for (int i = 0; i < 20; i++) {
		disconnect(&c, 3600);
		connect_as(&n, &c, "c", false, 3600, 500);
		until(&n, c.n_got == 500);
	}
	for (size_t i = 0; i < c.n_got; i++)
		assert_true(c.got[i].packet_id < 3000);
	free(c.got);
	node_release(&n);
}

/* Acknowledged before its cursors had rows: the commit was taken for a lost fence. */
static void test_cursor_waits_for_its_row(void **state)
{
	struct node n;
	struct client c = {0};
	struct dispatch_stats stats;

	(void)state;
	node_init_with(&n, 0, 0);
	make_faulty(&n);
	publish_many(&n, "t", 0, 100);
	connect_as(&n, &c, "c", false, 3600, 10);
	faults.retry_changes = 3;
	assert_int_equal(subscribe_from(&c, "#", 1, SESSION_START_EARLIEST, 0), 1);
	until(&n, c.n_got == 100);
	turns(&n, 30);
	assert_int_equal(c.kicked, 0);
	dispatch_get_stats(n.dispatch, &stats);
	assert_int_equal(stats.fenced, 0);
	assert_true(stats.cursor_commits > 0);
	free(c.got);
	node_release(&n);
}

/* Whether a commit is stored is not known: its number must not be guessed, the client not blamed.
 */
static void test_unknown_commit(void **state)
{
	struct node n;
	struct client c = {0};
	struct dispatch_stats stats;

	(void)state;
	node_init_with(&n, 0, 0);
	make_faulty(&n);
	connect_as(&n, &c, "c", false, 3600, 10);
	subscribe(&c, "#", 1);
	faults.unknown_commits = 2;
	publish_many(&n, "t", 0, 1000);
	until(&n, c.n_got >= 1000 && !faults.unknown_commits);
	turns(&n, 200);
	assert_int_equal(c.kicked, 0);
	assert_got(&c, 0, 1000);
	dispatch_get_stats(n.dispatch, &stats);
	assert_int_equal(stats.fenced, 0);
	free(c.got);
	node_release(&n);
}

/* A session with a shared subscription alone has no cursors: when its claim had to be repeated it
 * was taken for one that the first try had made, and its client was told that it is new. */
static void test_claim_repeated_without_cursors(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 1);
	make_faulty(&n);
	connect_as(&n, &c, "c", false, 3600, 10);
	assert_false(c.present);
	subscribe(&c, "$share/g/#", 1);
	disconnect(&c, 3600);
	turns(&n, 60);
	faults.retry_claims = 1;
	connect_as(&n, &c, "c", false, 3600, 10);
	assert_int_equal(faults.retry_claims, 0);
	assert_true(c.present);
	publish_many(&n, "t", 0, 20);
	until(&n, c.n_got == 20);
	free(c.got);
	node_release(&n);
}

static bool only_b(void *arg, struct slice filter)
{
	(void)arg;
	return slice_eq(filter, slice_str("b"));
}

/* A filter that the new token forbids: nothing may slip through before its removal is stored. */
static void test_forbidden_filter_delivers_nothing(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", false, 3600, 10);
	subscribe(&c, "a", 1);
	subscribe(&c, "b", 1);
	c.deaf = true;
	publish_many(&n, "a", 0, 5); /* matched, not sent */
	session_filters_check(c.session, only_b, NULL);
	c.deaf = false;
	session_writable(c.session);
	publish_many(&n, "a", 5, 10);
	publish_many(&n, "b", 10, 15);
	until(&n, c.n_got >= 5);
	assert_got(&c, 10, 15);
	turns(&n, 30);
	connect_as(&n, &c, "c", false, 3600, 10);
	publish_many(&n, "a", 15, 20);
	publish_many(&n, "b", 20, 25);
	until(&n, c.n_got >= 5);
	assert_got(&c, 20, 25);
	free(c.got);
	node_release(&n);
}

/* The first that can take a share's backlog is a new member: it must not wait for the next event.
 */
static void test_new_member_gets_the_backlog(void **state)
{
	struct node n;
	struct client away = {0};
	struct client new = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &away, "away", false, 3600, 10);
	subscribe(&away, "$share/g/#", 1);
	disconnect(&away, 3600);
	publish_many(&n, "t", 0, 50);
	connect_as(&n, &new, "new", true, 0, 10);
	subscribe(&new, "$share/g/#", 1);
	until(&n, new.n_got == 50);
	assert_got(&new, 0, 50);
	free(away.got);
	free(new.got);
	node_release(&n);
}

/* What was begun is completed, though its filter is gone [MQTT-3.10.4-3, MQTT-4.4.0-1]. */
static void test_begun_deliveries_are_completed(void **state)
{
	struct node n;
	struct client c = {0};
	struct slice gone = slice_str("#");
	struct session_unsubscribe req = {.filters = &gone, .n = 1, .done = on_answered};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", false, 3600, 10);
	c.auto_ack = false;
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 20);
	assert_int_equal(c.n_got, 10);
	c.answered = false;
	session_unsubscribe(c.session, &req);
	until(&n, c.answered);
	disconnect(&c, 3600);
	connect_as(&n, &c, "c", false, 3600, 10);
	until(&n, c.n_got == 10);
	turns(&n, 30);
	assert_got(&c, 0, 10); /* and not what had only waited */
	assert_true(c.got[9].dup);
	free(c.got);
	node_release(&n);
}

/* The database goes away for good while a drain waits for it. */
static void test_drain_without_database(void **state)
{
	struct node n;
	struct client c = {0};
	struct client member = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", false, 3600, 10);
	connect_as(&n, &member, "member", false, 3600, 10);
	c.auto_ack = member.auto_ack = false;
	subscribe(&c, "#", 1);
	subscribe(&member, "$share/g/#", 1);
	publish_many(&n, "t", 0, 20);
	until(&n, member.n_got == 10);
	n.bus->generation++;
	dispatch_on_state(n.dispatch, BUS_DOWN);
	for (int i = 0; i < 10; i++) { /* settled while nothing can be written */
		session_puback(c.session, c.got[i].packet_id, 0);
		session_puback(member.session, member.got[i].packet_id, 0);
	}
	dispatch_drain(n.dispatch, on_drained, &n.drained);
	until(&n, n.drained);
	free(c.got);
	free(member.got);
	node_release(&n);
}

/* Who was told of a gap and did not answer is told again, and nobody who did. */
static void test_gap_is_told_until_answered(void **state)
{
	struct node n;
	struct client c = {.never_ack = true};
	uint64_t gap;
	unsigned first;

	(void)state;
	node_init_keeping(&n, 20000, 0, 50000);
	connect_as(&n, &c, "c", false, 3600, 3);
	subscribe(&c, "#", 1);
	disconnect(&c, 3600);
	publish_many(&n, "t", 0, 2000);
	connect_as(&n, &c, "c", false, 3600, 3);
	until(&n, c.n_got == 3);
	gap = c.got[0].gap;
	first = c.got[0].n;
	assert_true(gap > 0 && !c.got[1].gap);
	disconnect(&c, 3600);
	c.n_got = 0;
	connect_as(&n, &c, "c", false, 3600, 3);
	until(&n, c.n_got == 3);
	assert_true(c.got[0].n == first && c.got[0].dup);
	assert_int_equal(c.got[0].gap, gap);
	session_puback(c.session, c.got[0].packet_id, 0);
	until(&n, c.n_got == 4);
	disconnect(&c, 3600);
	c.n_got = 0;
	connect_as(&n, &c, "c", false, 3600, 3);
	until(&n, c.n_got == 3);
	assert_true(c.got[0].n == first + 1 && !c.got[0].gap && !c.got[1].gap);
	free(c.got);
	node_release(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_retention_takes_what_waits),
	        cmocka_unit_test(test_gap_is_told_once),
	        cmocka_unit_test(test_gap_is_told_until_answered),
	        cmocka_unit_test(test_packet_ids_come_free),
	        cmocka_unit_test(test_cursor_waits_for_its_row),
	        cmocka_unit_test(test_unknown_commit),
	        cmocka_unit_test(test_claim_repeated_without_cursors),
	        cmocka_unit_test(test_forbidden_filter_delivers_nothing),
	        cmocka_unit_test(test_new_member_gets_the_backlog),
	        cmocka_unit_test(test_begun_deliveries_are_completed),
	        cmocka_unit_test(test_drain_without_database),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
