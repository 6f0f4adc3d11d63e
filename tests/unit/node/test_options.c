#include "node/cli/options.h"
#include "node/net/addr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct sample {
	const char *db;
	bool verbose;
	uint64_t port;
	uint64_t size;
	uint64_t ttl_ms;
	struct addr mqtt;
	int format;
	struct option_list topics;
	struct option_list words;
};

#define FIELD(f) .offset = offsetof(struct sample, f)

static const struct option rows[] = {
        {.name = "db",
         .kind = OPTION_TEXT,
         FIELD(db),
         .arg = "DSN",
         .help = "the database",
         .flags = OPTION_REQUIRED | OPTION_SECRET},
        {.name = "verbose", .letter = 'v', .kind = OPTION_FLAG, FIELD(verbose), .help = "say more"},
        {.name = "port",
         .kind = OPTION_NUMBER,
         FIELD(port),
         .help = "port",
         .fallback = "8883",
         .min = 1,
         .max = 65535},
        {.name = "size", .kind = OPTION_SIZE, FIELD(size), .help = "size", .fallback = "64KiB"},
        {.name = "ttl", .kind = OPTION_DURATION, FIELD(ttl_ms), .help = "life", .fallback = "1h"},
        {.name = "mqtt-addr",
         .kind = OPTION_ADDRESS,
         FIELD(mqtt),
         .arg = "ADDR",
         .help = "address"},
        {.name = "format",
         .kind = OPTION_CHOICE,
         FIELD(format),
         .help = "form",
         .choices = "text|json|line"},
        {.name = "topic", .letter = 't', .kind = OPTION_LIST, FIELD(topics), .help = "topics"},
        {.name = "words",
         .kind = OPTION_ARGS,
         FIELD(words),
         .arg = "[VERB [NAME]]",
         .help = "what to do",
         .max = 2},
};

static const struct options spec = {"sample", "A command for tests.", OPTIONS_ROWS(rows)};

static int parse(struct sample *s, struct err *e, const char *const *words)
{
	char *argv[32];
	int argc = 0;

	for (; words[argc]; argc++)
		argv[argc] = (char *)words[argc];
	return options_parse(&spec, argc, argv, s, e);
}

#define PARSE(s, e, ...) \
	parse((s), (e), (const char *const[]){"sample", __VA_ARGS__ __VA_OPT__(, ) NULL})

static void refused(const char *want, int rc, const struct err *e)
{
	assert_int_equal(rc, -1);
	if (!strstr(e->text, want))
		fail_msg("'%s' is not in: %s", want, e->text);
}

static void test_defaults(void **state)
{
	struct sample s;
	struct err e;

	(void)state;
	assert_int_equal(PARSE(&s, &e, "--db", "x"), 0);
	assert_string_equal(s.db, "x");
	assert_false(s.verbose);
	assert_int_equal(s.port, 8883);
	assert_int_equal(s.size, 65536);
	assert_int_equal(s.ttl_ms, 3600000);
	assert_string_equal(s.mqtt.host, "");
	assert_int_equal(s.format, 0);
	assert_int_equal(s.topics.n + s.words.n, 0);
	options_release(&spec, &s);
}

static void test_every_kind(void **state)
{
	struct sample s;
	struct err e;

	(void)state;
	assert_int_equal(PARSE(&s, &e, "create", "acme", "--db=a=b", "-v", "--port", "1", "--size",
	                       "10MiB", "--ttl=30s", "--mqtt-addr", "[::1]:0", "--format", "line",
	                       "-t", "a/#", "b/+", "-tc", "--topic=-d"),
	                 0);
	assert_string_equal(s.db, "a=b");
	assert_true(s.verbose);
	assert_int_equal(s.port, 1);
	assert_int_equal(s.size, 10 << 20);
	assert_int_equal(s.ttl_ms, 30000);
	assert_string_equal(s.mqtt.host, "::1");
	assert_int_equal(s.format, 2);
	assert_int_equal(s.topics.n, 4);
	assert_string_equal(s.topics.v[1], "b/+");
	assert_string_equal(s.topics.v[2], "c");
	assert_string_equal(s.topics.v[3], "-d");
	assert_int_equal(s.words.n, 2);
	assert_string_equal(s.words.v[1], "acme");
	options_release(&spec, &s);
}

static void test_errors_say_what_is_allowed(void **state)
{
	struct sample s;
	struct err e;

	(void)state;
	refused("LEAT_DB", PARSE(&s, &e), &e);
	refused("there are: --db --verbose", PARSE(&s, &e, "--nope", "1"), &e);
	refused("1 to 65535", PARSE(&s, &e, "--db", "x", "--port", "0"), &e);
	refused("whole number", PARSE(&s, &e, "--db", "x", "--port", "-1"), &e);
	refused("64KiB", PARSE(&s, &e, "--db", "x", "--size", "10XB"), &e);
	refused("size like", PARSE(&s, &e, "--db", "x", "--size", "99999999999999999999"), &e);
	refused("size like", PARSE(&s, &e, "--db", "x", "--size", "18446744073709551615KiB"), &e);
	refused("30s", PARSE(&s, &e, "--db", "x", "--ttl", "5"), &e);
	refused("text|json|line", PARSE(&s, &e, "--db", "x", "--format", "xml"), &e);
	refused("host:port", PARSE(&s, &e, "--db", "x", "--mqtt-addr", "localhost"), &e);
	refused("in brackets", PARSE(&s, &e, "--db", "x", "--mqtt-addr", "::1:80"), &e);
	refused("host:port", PARSE(&s, &e, "--db", "x", "--mqtt-addr", "h:65536"), &e);
	refused("needs a value: DSN", PARSE(&s, &e, "--db"), &e);
	refused("needs a value: DSN", PARSE(&s, &e, "--db", "--verbose"), &e);
	refused("given twice", PARSE(&s, &e, "--db", "x", "--db", "y"), &e);
	refused("argument 5", PARSE(&s, &e, "a", "b", "--db", "x", "c"), &e);
	refused("true or false", PARSE(&s, &e, "--db", "x", "--verbose=1x"), &e);
}

/* A secret must not reach a log by way of an error text. */
static void test_secrets_are_not_echoed(void **state)
{
	struct sample s;
	struct err e;
	const char *const tries[][4] = {
	        {"--dbb=hunter2", NULL},
	        {"--db=hunter2", "--db=hunter2", NULL},
	        {"a", "b", "hunter2", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
		assert_int_equal(PARSE(&s, &e, tries[i][0], tries[i][1], tries[i][2]), -1);
		assert_null(strstr(e.text, "hunter2"));
	}
}

static void test_environment(void **state)
{
	struct sample s;
	struct err e;

	(void)state;
	setenv("LEAT_DB", "from-env", 1);
	setenv("LEAT_MQTT_ADDR", "127.0.0.1:1883", 1);
	setenv("LEAT_VERBOSE", "yes", 1);
	setenv("LEAT_TOPIC", "a b", 1);
	setenv("LEAT_PORT", "77", 1);
	assert_int_equal(PARSE(&s, &e, "--port", "78"), 0);
	assert_string_equal(s.db, "from-env");
	assert_int_equal(s.mqtt.port, 1883);
	assert_true(s.verbose);
	assert_int_equal(s.port, 78);
	assert_int_equal(s.topics.n, 2);
	options_release(&spec, &s);

	assert_int_equal(PARSE(&s, &e, "--no-verbose", "-t", "c"), 0);
	assert_false(s.verbose);
	assert_int_equal(s.port, 77);
	assert_int_equal(s.topics.n, 1);
	options_release(&spec, &s);

	setenv("LEAT_PORT", "many", 1);
	refused("LEAT_PORT: 'many'", PARSE(&s, &e, "-v"), &e);
	unsetenv("LEAT_DB");
	unsetenv("LEAT_MQTT_ADDR");
	unsetenv("LEAT_VERBOSE");
	unsetenv("LEAT_TOPIC");
	unsetenv("LEAT_PORT");
}

static void test_secret_from_file(void **state)
{
	char path[] = "/tmp/leat-test-XXXXXX";
	int fd = mkstemp(path);
	struct sample s;
	struct err e;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "secret\n", 7), 7);
	close(fd);
	assert_int_equal(PARSE(&s, &e, "--db-file", path), 0);
	assert_string_equal(s.db, "secret");
	options_release(&spec, &s);
	setenv("LEAT_DB_FILE", path, 1);
	assert_int_equal(PARSE(&s, &e, "-v"), 0);
	assert_string_equal(s.db, "secret");
	options_release(&spec, &s);
	unsetenv("LEAT_DB_FILE");
	unlink(path);
	refused("cannot read", PARSE(&s, &e, "--db-file", path), &e);
}

static void test_help_is_asked_for(void **state)
{
	struct sample s;
	struct err e;
	char *text;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	assert_int_equal(PARSE(&s, &e, "-t", "a", "--help"), 1);
	options_help(&spec, f);
	fclose(f);
	for (size_t i = 0; i < spec.count; i++)
		assert_non_null(strstr(text, rows[i].help));
	assert_non_null(strstr(text, "LEAT_MQTT_ADDR"));
	assert_non_null(strstr(text, "--db-file"));
	assert_non_null(strstr(text, "default 8883"));
	free(text);
}

static void test_addresses(void **state)
{
	char text[ADDR_TEXT];
	struct addr a;
	struct err e;

	(void)state;
	assert_int_equal(addr_parse(&a, "*:80", &e), 0);
	assert_string_equal(a.host, "");
	assert_int_equal(addr_parse(&a, ":80", &e), 0);
	assert_int_equal(addr_parse(&a, "[::1]:8883", &e), 0);
	assert_true(addr_is_loopback(&a));
	assert_string_equal(addr_text(&a, text), "[::1]:8883");
	assert_int_equal(addr_parse(&a, "127.9.9.9:1", &e), 0);
	assert_true(addr_is_loopback(&a));
	assert_int_equal(addr_parse(&a, "127.0.0.1.example.org:1", &e), 0);
	assert_false(addr_is_loopback(&a));
	assert_int_equal(addr_parse(&a, ":1", &e), 0);
	assert_false(addr_is_loopback(&a));
	assert_int_equal(addr_parse(&a, "h:", &e), -1);
	assert_int_equal(addr_parse(&a, "h:1x", &e), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_defaults),
	        cmocka_unit_test(test_every_kind),
	        cmocka_unit_test(test_errors_say_what_is_allowed),
	        cmocka_unit_test(test_secrets_are_not_echoed),
	        cmocka_unit_test(test_environment),
	        cmocka_unit_test(test_secret_from_file),
	        cmocka_unit_test(test_help_is_asked_for),
	        cmocka_unit_test(test_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
