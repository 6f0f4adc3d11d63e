/* How shares and queues are claimed: a row that is there is taken, and nothing else is asked; only
 * where there is none it is found out where it begins, and whether it may be made. A node over the
 * memory backend, whose requests are counted. */
#include "tests/unit/node/rig.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { MAX_SEEN = 64 };

/* The bus of a node, with a look at what is asked of it. */
static struct spy {
	const struct bus_ops *ops; /* the bus's own */
	struct bus_ops mine;
	struct loop *loop;
	char seen[MAX_SEEN + 1]; /* of shares and queues: t take, m make, w where does it begin */
	size_t n;
	unsigned fail_makes; /* so many are not done: somebody else was quicker, say */
	enum sql_outcome outcome;
	void (*before_make)(void);
} spy;

static void note(char what)
{
	assert_true(spy.n < MAX_SEEN);
	spy.seen[spy.n++] = what;
	spy.seen[spy.n] = '\0';
}

static void forget_seen(void)
{
	spy.n = 0;
	spy.seen[0] = '\0';
}

static void not_done(void *arg)
{
	struct bus_claim *req = arg;

	req->outcome = spy.outcome;
	req->done(req);
}

static void spy_claim(struct bus *bus, struct bus_claim *req)
{
	if (req->kind != BUS_SUB_SESSION)
		note(req->create ? 'm' : 't');
	if (req->kind != BUS_SUB_SESSION && req->create && spy.before_make)
		spy.before_make();
	if (req->kind != BUS_SUB_SESSION && req->create && spy.fail_makes) {
		spy.fail_makes--;
		loop_defer(spy.loop, not_done, req);
		return;
	}
	spy.ops->claim(bus, req);
}

static void spy_locate(struct bus *bus, struct bus_locate *req)
{
	note('w');
	spy.ops->locate(bus, req);
}

static void spied_node(struct node *n)
{
	node_init_with(n, 0, 1);
	spy = (struct spy){.ops = n->bus->ops, .mine = *n->bus->ops, .loop = n->loop};
	spy.mine.claim = spy_claim;
	spy.mine.locate = spy_locate;
	n->bus->ops = &spy.mine;
}

static void spied_release(struct node *n)
{
	spy.before_make = NULL;
	n->bus->ops = spy.ops;
	node_release(n);
}

static void turns(struct node *n, int count)
{
	for (int i = 0; i < count; i++)
		loop_turn(n->loop);
}

/* Until nothing of the tenant is in memory any more: what was known of its heads is forgotten. */
static void leave(struct node *n, struct client *c, uint32_t expiry_s)
{
	disconnect(c, expiry_s);
	turns(n, 100);
}

/* Thousands of them come at once when a node goes: two statements each for where a new one would
 * begin, and the tenant's stock, are work that nobody needs. */
static void test_one_that_is_there_is_taken(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 3600, 50);
	assert_int_equal(subscribe(&c, "$share/g/t/#", 1), 1);
	assert_int_equal(subscribe(&c, "$queue/q/u/#", 1), 1);
	leave(&n, &c, 3600);
	forget_seen();
	n.asked_room = 0;
	connect_as(&n, &c, "c", false, 3600, 50);
	assert_true(c.present);
	turns(&n, 100);
	assert_string_equal(spy.seen, "tt");
	assert_int_equal(n.asked_room, 1); /* the session's own */
	publish_many(&n, "t/1", 0, 10);
	publish_many(&n, "u/1", 10, 20);
	until(&n, c.n_got == 20);
	free(c.got);
	spied_release(&n);
}

/* So is one that a client asks for by name, though it would make it. */
static void test_one_that_is_asked_for_is_taken(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 3600, 50);
	subscribe(&c, "$share/g/t/#", 1);
	leave(&n, &c, 3600);
	forget_seen();
	n.room = DISPATCH_FULL;
	connect_as(&n, &c, "other", true, 0, 50);
	assert_int_equal(subscribe(&c, "$share/g/t/#", 1), 1);
	assert_string_equal(spy.seen, "t");
	free(c.got);
	spied_release(&n);
}

static void test_one_that_is_not_there_is_made(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 0, 50);
	assert_int_equal(subscribe_from(&c, "$share/g/t/#", 1, SESSION_START_HEAD, 0), 1);
	assert_string_equal(spy.seen, "twm");
	forget_seen();
	assert_int_equal(subscribe_from(&c, "$queue/q/t/#", 1, SESSION_START_HEAD, 0), 1);
	assert_string_equal(spy.seen, "twm");
	assert_int_equal(n.told_made, 2);
	publish_many(&n, "t/1", 0, 5);
	until(&n, c.n_got == 10);
	free(c.got);
	spied_release(&n);
}

/* It begins where it was asked to, wherever that is. */
static void test_one_that_is_made_begins_where_it_should(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 0, 50);
	publish_many(&n, "t/1", 0, 10);
	assert_int_equal(subscribe_from(&c, "$share/g/t/#", 1, SESSION_START_EARLIEST, 0), 1);
	until(&n, c.n_got == 10);
	assert_int_equal(subscribe_from(&c, "$share/h/t/#", 1, SESSION_START_SEQ, 8), 1);
	until(&n, c.n_got == 13);
	publish_many(&n, "t/1", 10, 12);
	assert_int_equal(subscribe(&c, "$share/i/t/#", 1), 1);
	until(&n, c.n_got == 17);
	turns(&n, 50);
	assert_int_equal(c.n_got, 17);
	free(c.got);
	spied_release(&n);
}

/* Two nodes found none: one of them makes it, the other looks again and finds that. */
static void test_somebody_else_was_quicker(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 0, 50);
	spy.fail_makes = 1;
	spy.outcome = SQL_RETRY;
	assert_int_equal(subscribe_from(&c, "$share/g/t/#", 1, SESSION_START_HEAD, 0), 1);
	assert_string_equal(spy.seen, "twmtwm");
	assert_int_equal(n.asked_room, 2);
	assert_int_equal(n.told_made, 2);
	free(c.got);
	spied_release(&n);
}

static struct node *falling;

/* The database goes while it is being made: what was found out may be void. */
static void fall(void)
{
	spy.before_make = NULL;
	falling->bus->generation++;
	dispatch_on_state(falling->dispatch, BUS_DOWN);
	dispatch_on_state(falling->dispatch, BUS_UP);
}

static void test_generation_ends_meanwhile(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 0, 50);
	falling = &n;
	spy.before_make = fall;
	assert_int_equal(subscribe(&c, "$share/g/t/#", 1), 1);
	publish_many(&n, "t/1", 0, 5);
	until(&n, c.n_got == 5);
	turns(&n, 100);
	assert_got(&c, 0, 5);
	free(c.got);
	spied_release(&n);
}

/* No queue, and nobody makes it: there is nothing to find out. */
static void test_queue_that_is_not_there(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 0, 50);
	assert_int_equal(subscribe(&c, "$queue/q", 1), 0x8F);
	assert_non_null(strstr(c.text, "there is no queue q"));
	assert_string_equal(spy.seen, "t");
	assert_int_equal(n.asked_room, 0);
	free(c.got);
	spied_release(&n);
}

/* It has as many as it may have: it is told so, and nothing is made. */
static void test_tenant_that_may_have_no_more(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 0, 50);
	n.room = DISPATCH_FULL;
	assert_int_equal(subscribe(&c, "$share/g/t/#", 1), 0x97);
	assert_null(strchr(spy.seen, 'm'));
	assert_int_equal(n.asked_room, 1);
	assert_int_equal(n.told_made, 0);
	n.room = DISPATCH_ROOM;
	assert_int_equal(subscribe(&c, "$share/g/t/#", 1), 1);
	assert_int_equal(n.told_made, 1);
	free(c.got);
	spied_release(&n);
}

static void on_subscribed(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                          const char *text)
{
	on_answered(conn, packet_id, reasons, n, text);
}

/* Whether it may have one more is not known yet: nobody is refused for that. */
static void test_room_that_is_not_known_yet(void **state)
{
	struct node n;
	struct client c = {0};
	struct session_filter f = {.filter = slice_str("$share/g/t/#"), .qos = 1};
	struct session_subscribe sub = {
	        .filters = &f, .n = 1, .policy = BUS_POLICY_DEFAULT, .done = on_subscribed};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 0, 50);
	n.room = DISPATCH_ROOM_LATER;
	session_subscribe(c.session, &sub);
	until(&n, n.asked_room == 3);
	assert_false(c.answered);
	assert_null(strchr(spy.seen, 'm'));
	n.room = DISPATCH_ROOM;
	until(&n, c.answered);
	assert_int_equal(c.reason, 1);
	assert_int_equal(n.told_made, 1);
	free(c.got);
	spied_release(&n);
}

/* A node that goes makes nothing any more. */
static void test_node_that_leaves(void **state)
{
	struct node n;
	struct client c = {0};
	struct session_filter f = {.filter = slice_str("$share/g/t/#"), .qos = 1};
	struct session_subscribe sub = {
	        .filters = &f, .n = 1, .policy = BUS_POLICY_DEFAULT, .done = on_subscribed};

	(void)state;
	spied_node(&n);
	connect_as(&n, &c, "c", true, 0, 50);
	session_subscribe(c.session, &sub);
	until(&n, spy.n == 1);
	n.drained = false;
	dispatch_drain(n.dispatch, on_drained, &n.drained);
	until(&n, n.drained);
	turns(&n, 50);
	assert_null(strchr(spy.seen, 'm'));
	assert_int_equal(n.told_made, n.asked_room);
	free(c.got);
	spied_release(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_one_that_is_there_is_taken),
	        cmocka_unit_test(test_one_that_is_asked_for_is_taken),
	        cmocka_unit_test(test_one_that_is_not_there_is_made),
	        cmocka_unit_test(test_one_that_is_made_begins_where_it_should),
	        cmocka_unit_test(test_somebody_else_was_quicker),
	        cmocka_unit_test(test_generation_ends_meanwhile),
	        cmocka_unit_test(test_queue_that_is_not_there),
	        cmocka_unit_test(test_tenant_that_may_have_no_more),
	        cmocka_unit_test(test_room_that_is_not_known_yet),
	        cmocka_unit_test(test_node_that_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
