#include "sql/conn_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
	MARIADB_MIN = 100600,
	MYSQL_MIN = 80016,
	PACKET_MIN =
	        2 << 20, /* bytes: twice a flush; below 64 KiB not even a renewal goes through */
};

static bool is_on(const char *value)
{
	return strcmp(value, "0") != 0 && strcasecmp(value, "OFF") != 0;
}

static uint64_t number(const char *value)
{
	return strtoull(value, NULL, 10);
}

/* "10.11.6-MariaDB-log" is 101106. */
static unsigned version_number(const char *value)
{
	unsigned no = 0;
	char *end;

	for (int part = 0; part < 3; part++) {
		no = no * 100 + (unsigned)strtoul(value, &end, 10) % 100;
		value = *end == '.' ? end + 1 : end;
	}
	return no;
}

static void set_version(struct sql_server *s, const char *value)
{

	snprintf(s->version, sizeof s->version, "%s", value);
	s->mariadb = strcasestr(value, "mariadb") != NULL;
	s->version_no = version_number(value);
}

void sql_server_set(struct sql_server *s, const char *name, const char *value)
{
	if (strcmp(name, "version") == 0)
		set_version(s, value);
	else if (strcmp(name, "max_allowed_packet") == 0)
		s->max_packet = number(value);
	else if (strcmp(name, "innodb_flush_log_at_trx_commit") == 0)
		s->flush_at_commit = (unsigned)number(value);
	else if (strcmp(name, "log_bin") == 0)
		s->log_bin = is_on(value);
	else if (strcmp(name, "sync_binlog") == 0)
		s->sync_binlog = number(value);
	else if (strcmp(name, "wsrep_on") == 0)
		s->galera = is_on(value);
	else if (strcmp(name, "read_only") == 0 || strcmp(name, "innodb_read_only") == 0)
		s->read_only = s->read_only || is_on(value);
}

static int on_variable(void *arg, const struct sql_cell *cells, unsigned n)
{
	char name[64], value[64];

	(void)n;
	snprintf(name, sizeof name, "%.*s", (int)cells[0].bytes.n, cells[0].bytes.p);
	snprintf(value, sizeof value, "%.*s", (int)cells[1].bytes.n, cells[1].bytes.p);
	sql_server_set(arg, name, value);
	return 0;
}

static int on_ready(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)n;
	*(bool *)arg = slice_eq(cells[1].bytes, slice_str("ON"));
	return 0;
}

/* Reads wait until this member has applied what any had committed when they began: a claim must see
 * the last owner's work. A member cut off from the majority still lets clients in. */
static enum sql_outcome join_galera(struct sql_conn *c)
{
	static const char text[] =
	        "SET SESSION wsrep_sync_wait=1;SHOW GLOBAL STATUS LIKE 'wsrep_ready'";
	bool ready = false;
	struct sql_text_sink sink = {.on_row = on_ready, .arg = &ready};
	enum sql_outcome o = sql_text(c, text, sizeof text - 1, &sink, SQL_TEXT_PLAIN);

	if (o == SQL_OK && !ready)
		return conn_refused(c, "connect", "this Galera member is not ready");
	return o;
}

enum sql_outcome server_read(struct sql_conn *c)
{
	static const char text[] =
	        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version','max_allowed_packet',"
	        "'innodb_flush_log_at_trx_commit','log_bin','sync_binlog','wsrep_on','read_only',"
	        "'innodb_read_only')";
	struct sql_text_sink sink = {.on_row = on_variable, .arg = &c->server};
	enum sql_outcome o;

	c->server = (struct sql_server){0};
	o = sql_text(c, text, sizeof text - 1, &sink, SQL_TEXT_PLAIN);
	return o == SQL_OK && c->server.galera ? join_galera(c) : o;
}

const struct sql_server *sql_conn_server(const struct sql_conn *c)
{
	return &c->server;
}

int sql_check_durable(const struct sql_server *s, bool accept_data_loss, struct err *e)
{
	if (s->version_no < (s->mariadb ? MARIADB_MIN : MYSQL_MIN))
		return err_set(e, 0,
		               "server is %s: Leat needs MariaDB 10.6 or MySQL 8.0.16, or newer",
		               s->version);
	if (s->read_only)
		return err_set(e, 0, "server is read-only: connect to the primary");
	if (s->max_packet < PACKET_MIN)
		return err_set(
		        e, 0,
		        "server has max_allowed_packet=%llu: a batch travels in one packet; set "
		        "it to %d or more, better to 67108864",
		        (unsigned long long)s->max_packet, PACKET_MIN);
	if (accept_data_loss)
		return 0;
	if (s->flush_at_commit != 1)
		return err_set(
		        e, 0,
		        "server has innodb_flush_log_at_trx_commit=%u: acknowledged events could "
		        "be lost; set it to 1, or start with --accept-data-loss",
		        s->flush_at_commit);
	if (s->log_bin && s->sync_binlog != 1)
		return err_set(
		        e, 0,
		        "server has log_bin on and sync_binlog=%llu: acknowledged events could be "
		        "lost; set it to 1, or start with --accept-data-loss",
		        (unsigned long long)s->sync_binlog);
	return 0;
}
