#include "tenancy/acl.h"

#include "tenancy/topic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct acl *parse(const char *json, struct err *e)
{
	json_t *claim = json ? json_loads(json, JSON_DECODE_ANY, NULL) : NULL;
	struct acl *a;

	if (json && !claim)
		fail_msg("test row is not JSON: %s", json);
	a = acl_parse(claim, e);
	json_decref(claim);
	return a;
}

static struct acl *parse_bound(const char *json)
{
	struct err e = {0};
	struct acl *a = parse(json, &e);

	if (!a || acl_bind(a, slice_str("alice"), slice_str("c1"), &e) < 0)
		fail_msg("%s: %s", json, e.text);
	return a;
}

static void test_acl_malformed(void **state)
{
	static const struct {
		const char *json, *why;
	} rows[] = {
	        {"{}", "claim acl must be an array"},
	        {"null", "claim acl must be an array"},
	        {"{\"pub\":[\"a\"]}", "claim acl must be an array"},
	        {"[1]", "acl entry 1: not an object"},
	        {"[{\"action\":\"all\",\"topic\":\"a\"}]", "acl entry 1: permission must be"},
	        {"[{\"permission\":\"Allow\",\"action\":\"all\",\"topic\":\"a\"}]",
	         "acl entry 1: permission must be"},
	        {"[{\"permission\":\"allow\",\"topic\":\"a\"}]", "acl entry 1: action must be"},
	        {"[{\"permission\":\"allow\",\"action\":\"pub\",\"topic\":\"a\"}]",
	         "acl entry 1: action must be"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\"}]",
	         "acl entry 1: either topic or topics"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"a\",\"topics\":[\"b\"]}"
	         "]",
	         "acl entry 1: either topic or topics"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topics\":[]}]",
	         "acl entry 1: topics must be"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topics\":\"a\"}]",
	         "acl entry 1: topics must be"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":7}]",
	         "acl entry 1: topic must be a string"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"a\"},"
	         "{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"a#\"}]",
	         "acl entry 2: filter \"a#\": # must be a whole level"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"\"}]",
	         "acl entry 1: filter is empty"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"$share/g/a\"}]",
	         "$share and $queue are not allowed here"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"a/${user}\"}]",
	         "only ${clientid} and ${sub} are known"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"eq a/#\"}]",
	         "\"eq FILTER\" is not supported"},
	        {"[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"a\",\"qos\":[1]}]",
	         "acl entry 1: member \"qos\" is not supported"},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct err e = {0};
		struct acl *a = parse(rows[i].json, &e);

		if (a)
			fail_msg("accepted: %s", rows[i].json);
		if (!strstr(e.text, rows[i].why))
			fail_msg("%s: reason is '%s'", rows[i].json, e.text);
	}
}

static struct acl *scopes(const char *json, struct err *e)
{
	json_t *claim = json_loads(json, JSON_DECODE_ANY, NULL);
	struct acl *a;

	if (!claim)
		fail_msg("test row is not JSON: %s", json);
	a = acl_parse_scopes("scp", claim, e);
	json_decref(claim);
	return a;
}

/* As Keycloak, Auth0, Okta and Entra send them: a string or an array, with scopes of others. */
static void test_acl_scopes(void **state)
{
	static const char *const rows[] = {
	        "\"openid leat.publish:orders/#  leat.subscribe:status leat.all:c/${clientid}\"",
	        "[\"openid\", \"leat.publish:orders/#\", \"leat.subscribe:status\", 7, "
	        "\"leat.all:c/${clientid}\", \"LEAT.publish:#\", \"leatX\", \"\"]",
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct err e = {0};
		struct acl *a = scopes(rows[i], &e);

		if (!a || acl_bind(a, slice_str("alice"), slice_str("c1"), &e) < 0)
			fail_msg("%s: %s", rows[i], e.text);
		assert_true(acl_may_publish(a, slice_str("orders/1")));
		assert_false(acl_may_publish(a, slice_str("status")));
		assert_true(acl_may_subscribe(a, slice_str("status")));
		assert_false(acl_may_subscribe(a, slice_str("orders/#")));
		assert_true(acl_may_subscribe(a, slice_str("c/c1")));
		assert_false(acl_may_publish(a, slice_str("c/c2")));
		acl_free(a);
	}
}

static void test_acl_scopes_malformed(void **state)
{
	static const struct {
		const char *json, *why;
	} rows[] = {
	        {"7", "claim scp must be a string or an array of strings"},
	        {"{}", "claim scp must be a string or an array of strings"},
	        {"\"leat.publish\"", "scope leat.\"publish\": there are leat.publish:FILTER"},
	        {"\"leat.:a\"", "there are leat.publish:FILTER"},
	        {"\"leat.read:a\"", "there are leat.publish:FILTER"},
	        {"\"leat.Publish:a\"", "there are leat.publish:FILTER"},
	        {"\"a leat.publish:\"", "scope leat.\"publish:\": "},
	        {"\"leat.publish:a/#/b\"", "scope leat.\"publish:a/#/b\": "},
	        {"\"leat.all:${user}\"", "only ${clientid} and ${sub} are known"},
	        {"[\"leat.all:ok\",\"leat.deny:x\"]", "there are leat.publish:FILTER"},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct err e = {0};

		assert_null(scopes(rows[i].json, &e));
		if (!strstr(e.text, rows[i].why))
			fail_msg("%s: reason is '%s'", rows[i].json, e.text);
	}
}

static void test_acl_bounds(void **state)
{
	json_t *claim = json_array(), *topics = json_array();
	struct err e = {0};
	struct acl *a;
	(void)state;

	for (int i = 0; i < ACL_MAX_FILTERS; i++)
		json_array_append_new(topics, json_string("a/b"));
	json_array_append_new(claim, json_pack("{s:s,s:s,s:O}", "permission", "allow", "action",
	                                       "all", "topics", topics));
	a = acl_parse(claim, &e);
	assert_non_null(a);
	acl_free(a);
	json_array_append_new(topics, json_string("a/b"));
	assert_null(acl_parse(claim, &e));
	assert_string_equal(e.text, "acl entry 1: more than 256 filters");
	json_decref(topics);
	json_decref(claim);
}

static void test_acl_no_claim_allows_nothing(void **state)
{
	struct acl *a = parse_bound(NULL);
	(void)state;

	assert_false(acl_may_publish(a, slice_str("a")));
	assert_false(acl_may_subscribe(a, slice_str("a")));
	acl_free(a);
}

static void test_acl_first_match_decides(void **state)
{
	struct acl *a = parse_bound(
	        "[{\"permission\":\"allow\",\"action\":\"publish\",\"topic\":\"a/secret/mine\"},"
	        "{\"permission\":\"deny\",\"action\":\"all\",\"topic\":\"a/secret/#\"},"
	        "{\"permission\":\"allow\",\"action\":\"all\",\"topics\":[\"a/#\",\"b/+\"]},"
	        "{\"permission\":\"deny\",\"action\":\"subscribe\",\"topic\":\"b/x\"}]");
	(void)state;

	assert_true(acl_may_publish(a, slice_str("a/secret/mine")));
	assert_false(acl_may_publish(a, slice_str("a/secret/other")));
	assert_false(acl_may_publish(a, slice_str("a/secret")));
	assert_true(acl_may_publish(a, slice_str("a/x")));
	assert_false(acl_may_publish(a, slice_str("c")));
	assert_false(acl_may_publish(a, slice_str("b/x/y")));
	assert_false(acl_may_subscribe(a, slice_str("a/#"))); /* would leak a/secret */
	assert_false(acl_may_subscribe(a, slice_str("#")));
	assert_false(acl_may_subscribe(a, slice_str("a/+")));           /* matches a/secret */
	assert_false(acl_may_subscribe(a, slice_str("a/secret/mine"))); /* publish only */
	assert_true(acl_may_subscribe(a, slice_str("a/x/#")));
	assert_true(acl_may_subscribe(a, slice_str("b/+"))); /* allowed before it is denied */
	acl_free(a);
}

static void test_acl_placeholders(void **state)
{
	struct acl *a = parse_bound(
	        "[{\"permission\":\"allow\",\"action\":\"all\",\"topics\":"
	        "[\"dev/${clientid}/#\",\"user/${sub}\",\"mix/pre-${clientid}-${sub}\"]}]");
	(void)state;

	assert_true(acl_may_publish(a, slice_str("dev/c1/t")));
	assert_false(acl_may_publish(a, slice_str("dev/c2/t")));
	assert_false(acl_may_publish(a, slice_str("dev/${clientid}/t")));
	assert_true(acl_may_subscribe(a, slice_str("user/alice")));
	assert_true(acl_may_publish(a, slice_str("mix/pre-c1-alice")));
	acl_free(a);
}

static void test_acl_hostile_client_ids(void **state)
{
	static const char *const ids[] = {"+", "#", "a/b", "", "$share", "x+", "/"};
	const char *json =
	        "[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"${clientid}/x\"}]";
	struct err e;
	struct acl *a;
	(void)state;

	for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
		a = parse(json, &e);
		assert_non_null(a);
		assert_int_equal(acl_bind(a, slice_str("s"), slice_str(ids[i]), &e), -1);
		assert_non_null(strstr(e.text, "the token's acl uses ${clientid}"));
		acl_free(a);
	}
	/* a value is never expanded again, and an unused placeholder harms nobody */
	a = parse("[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"${sub}/x\"}]", &e);
	assert_int_equal(acl_bind(a, slice_str("a${clientid}"), slice_str("+"), &e), 0);
	assert_true(acl_may_publish(a, slice_str("a${clientid}/x")));
	assert_false(acl_may_publish(a, slice_str("a+/x")));
	acl_free(a);
}

static void test_acl_server_topics(void **state)
{
	struct acl *a =
	        parse_bound("[{\"permission\":\"allow\",\"action\":\"all\",\"topic\":\"#\"}]");
	(void)state;

	assert_true(acl_may_subscribe(a, slice_str("#")));
	assert_false(acl_may_subscribe(a, slice_str("$leat/#")));
	acl_free(a);
}

/* Whatever the entries: what an allowed filter matches is allowed topic by topic. */
static void test_acl_subscribe_never_leaks(void **state)
{
	static const char *const filters[] = {"#",   "+",    "a",     "a/#",   "+/b", "a/+",
	                                      "a/b", "+/#",  "+/+/c", "a/b/c", "b/#", "a/+/c",
	                                      "/",   "$c/#", "$c/+",  "+/b/#"};
	static const char *const topics[] = {"a",   "b",     "c",     "a/b",   "a/c", "b/b",
	                                     "b/c", "a/b/c", "a/c/c", "/",     "$c",  "$c/b",
	                                     "a/",  "/b",    "a/b/d", "b/b/c", "a//c"};
	enum { F = sizeof filters / sizeof *filters, T = sizeof topics / sizeof *topics };
	unsigned allowed = 0;
	(void)state;

	srandom(7);
	for (int round = 0; round < 3000; round++) {
		char json[512] = "[";
		struct acl *a;

		for (int i = 0; i < 4; i++)
			sprintf(json + strlen(json),
			        "%s{\"permission\":\"%s\",\"action\":\"all\",\"topic\":\"%s\"}",
			        i ? "," : "", random() % 2 ? "allow" : "deny",
			        filters[random() % F]);
		strcat(json, "]");
		a = parse_bound(json);
		for (size_t f = 0; f < F; f++) {
			if (!acl_may_subscribe(a, slice_str(filters[f])))
				continue;
			allowed++;
			for (size_t t = 0; t < T; t++) {
				if (topic_match(slice_str(filters[f]), slice_str(topics[t])) &&
				    !acl_may_publish(a, slice_str(topics[t])))
					fail_msg("%s: %s leaks %s", json, filters[f], topics[t]);
			}
		}
		acl_free(a);
	}
	assert_true(allowed > 1000);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_acl_malformed),
	        cmocka_unit_test(test_acl_bounds),
	        cmocka_unit_test(test_acl_scopes),
	        cmocka_unit_test(test_acl_scopes_malformed),
	        cmocka_unit_test(test_acl_no_claim_allows_nothing),
	        cmocka_unit_test(test_acl_first_match_decides),
	        cmocka_unit_test(test_acl_placeholders),
	        cmocka_unit_test(test_acl_hostile_client_ids),
	        cmocka_unit_test(test_acl_server_topics),
	        cmocka_unit_test(test_acl_subscribe_never_leaks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
