"""Every procedure of the schema, found through information_schema, with every argument made hostile: it
does what it says or refuses with SQLSTATE 45000, and then nothing has changed. And with one tenant's
name and another's objects: the answer is the same as for what does not exist."""

import collections
import contextlib
import hashlib
import json
import re

import pymysql
import pytest

from leat import stack
from leat.schema import Schema

REFUSED = 1644  # SIGNAL SQLSTATE '45000'
NO_UTF8_SAYS = 1300  # MariaDB: Invalid utf8mb4 character string: '\\xFF'
CONVERTED = {1366, 1300, 3854, 3988}  # publish() takes text of any character set: the server says so before the call

def fingerprint(tenant):
    """Of the certificate that the tenant has registered."""
    return hashlib.sha256(tenant.encode()).hexdigest()


# A call that finds what it names, by parameter. Procedures need no row here unless theirs differ.
GOOD = {
    "p_tenant": "alpha", "p_name": "work", "p_kind": "queue", "p_subject": "", "p_weight": 1, "p_partitions": 1,
    "p_limit": 10, "p_value": 5, "p_rows": 10, "p_issuer": "i", "p_kid": "k", "p_alg": "HS256",
    "p_material": b"s" * 40, "p_reason": "why", "p_per_s": 10, "p_ids": "1", "p_cron": "@daily", "p_zone": None,
    "p_topic": "a/b", "p_content_type": "text/plain", "p_payload": b"x", "p_attributes": None, "p_filters": "a/#",
    "p_from": None, "p_to": "latest", "p_policy": "max_attempts", "p_account": "someone", "p_inbox_id": 1,
    "p_timer_id": 1, "p_token_id": "t", "p_before": None, "p_expires": None,
    "p_deliver_at": "2026-12-01 00:00:00", "p_jwks_url": "https://id.test/keys", "p_audience": "leat",
    "p_tenant_claim": None, "p_subject_claim": None, "p_permissions": None, "p_setting": "audience",
    "p_fingerprint": "ab" * 32, "p_acl": "[]",
}
GOOD_OF = {
    **{name: {"p_name": "alpha"} for name in (
        "tenant_suspend", "tenant_resume", "tenant_set_weight", "tenant_set_partitions")},
    **{name: {"p_name": "tick"} for name in ("schedule_pause", "schedule_resume", "schedule_delete")},
    "tenant_set_limit": {"p_name": "alpha", "p_limit": "max_connections"},
    "tenant_create": {"p_name": "new"}, "tenant_delete": {"p_name": "gone"}, "tenant_purge_step": {"p_name": "gone"},
    "subscription_create": {"p_name": "made"}, "schedule_create": {"p_name": "made"},
    "key_add": {"p_kid": "another"}, "timer_cancel": {"p_subject": "me", "p_name": "note"},
    "issuer_set": {"p_issuer": "https://id.test", "p_value": "other"}, "issuer_add": {"p_issuer": "new"},
    "issuer_retire": {"p_issuer": "https://id.test"}, "issuer_fetch": {"p_issuer": "https://id.test"},
    "token_revoke_undo": {"p_kind": "subject", "p_name": "bad"}, "token_revoke_subject": {"p_subject": "me"},
    "certificate_add": {"p_subject": "me"}, "certificate_remove": {"p_fingerprint": fingerprint("alpha")},
}
BYTES = {"p_material", "p_payload"}  # all other arguments of this type are text
MAKES = {"tenant_create", "subscription_create", "schedule_create", "key_add", "publisher_allow", "publish",
         "publish_at", "issuer_add", "token_revoke_subject", "token_revoke_id", "token_revoke_before", "certificate_add"}
# An argument that must match something: any other text must not be taken for it.
MATCHES = {"p_tenant", "p_name", "p_kind", "p_subject", "p_alg", "p_policy", "p_issuer", "p_kid", "p_limit", "p_setting"}
SILENT = {"publish", "publish_at"}  # leave no row in audit
# none when there was nothing to do
COUNTS = {"tenant_purge_step", "dead_letter_redrive_all", "dead_letter_discard_all", "tenant_set_partitions",
          "inbox_retry_all", "inbox_discard_all"}

class Large:
    """A value that the server makes, so that it is not sent for every call."""

    def __init__(self, text, repeated):
        self.text, self.n = text, repeated

    def __repr__(self):
        return f"{self.text!r} * {self.n}"


TEXTS = [
    None, "", " ", "'", '"', "`", "\\", "\\'", "x' OR '1'='1", "'; DROP TABLE tenant; -- ", "/*! SELECT 1 */", "-- ",
    "%", "_", "%%", "a\0b", "\0", "\n", "\x7f\x1b[31m", "ä" * 100, "𝄞", "𝄞" * 300, "\ufeff", "\u202e", "ﬀ", "NULL", "0", "-1",
    "1e999", "NaN", "{}", "[]", '["a"', "[" * 200, '"x"', "[1,2,3]", "[null]", '[{"a":1}]', "$share/g/x", "$SYS", "+", "#",
    "a" * 65, "a" * 256, "a" * 1025, Large("a", 65536), Large("a", 1000000), Large("ä", 40000), "/" * 40, "9" * 40,
]
NUMBERS = [None, -1, 0, 0.4, 0.5, 1.5, 2**31, 2**32, 2**63, 2**64, 10**40, -10**40, 1e30, True]
TIMES = [None, "1000-01-01 00:00:00", "9999-12-31 23:59:59.999", "2026-02-28 00:00:00.001"]
BINARY = [None, b"", b"\0", b"\xff\xfe\xf0", b"'\\\"", Large("x", 1048577), b'{"a":' + b"[" * 200, bytes(range(256)) * 5]
NO_UTF8 = [b"\xff", b"alpha\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"]


class Console(Schema):
    def __init__(self, database):
        super().__init__(database)
        self.procedures = {}
        self.step = self.rows("SELECT @@auto_increment_increment AS n")[0]["n"]  # of a Galera of three: 3
        for r in self.rows("SELECT specific_name AS p, parameter_name AS n, data_type AS t"
                           " FROM information_schema.parameters WHERE specific_schema=%s AND routine_type='PROCEDURE'"
                           " ORDER BY specific_name, ordinal_position", self.name):
            if not r["p"].startswith("_"):
                text = r["t"] == "longblob" and r["n"] not in BYTES
                self.procedures.setdefault(r["p"], {})[r["n"]] = "text" if text else r["t"]
        me = self.dsn.split("//")[1].split(":")[0]
        for name in ("alpha", "beta", "gone"):
            self.tenant(name)
        self.run("CALL publisher_allow(%s,'alpha')", me)
        self.run("CALL issuer_add('https://id.test','https://id.test/k','leat',NULL,'alpha',NULL,NULL)")
        self.objects("alpha", "work", "k", "tick", "me", "note", "bad")

    def objects(self, tenant, queue, kid, schedule, subject, timer, revoked):
        """One of each that a procedure can name."""
        self.run("CALL subscription_create(%s,'queue','',%s,'a',NULL)", tenant, queue)
        self.run("CALL key_add(%s,'i',%s,'HS256',REPEAT('s',40))", tenant, kid)
        self.run("CALL schedule_create(%s,%s,'@daily',NULL,'a',NULL,'x')", tenant, schedule)
        self.run("CALL token_revoke_subject(%s,%s,NULL,NULL,'why')", tenant, revoked)
        self.run("CALL certificate_add(%s,%s,'me','[]')", tenant, fingerprint(tenant))
        self.run("INSERT INTO timer(kind,tenant_id,due_at,subject,name,history,attributes,body) SELECT"
                 " 1,tenant_id,'2099-01-01',%s,%s,'[]','[{\"topic\":\"t\",\"o\":0,\"l\":1}]','x' FROM tenant"
                 " WHERE name=%s", subject, timer, tenant)

    def good(self, procedure):
        return {p: GOOD_OF.get(procedure, {}).get(p, GOOD[p]) for p in self.procedures[procedure]}

    def call(self, procedure, args):
        """None, or the error's number and text."""
        marks = (f"REPEAT('{v.text}',{v.n})" if isinstance(v, Large) else "%s" for v in args.values())
        with self.connection.cursor() as q:
            try:
                q.execute(f"CALL {procedure}({','.join(marks)})",
                          [v for v in args.values() if not isinstance(v, Large)])
                while q.nextset():
                    pass
                return None
            except pymysql.Error as e:
                return e.args

    def audits(self):
        """The last one's number: nothing else writes there, none is used twice, and rows are `step` apart."""
        return self.rows("SELECT COALESCE(MAX(audit_id),0) AS n FROM audit")[0]["n"]

    def state(self):
        """Every row of every table: what a refusal must leave as it was. (CHECKSUM TABLE says NULL, without an error,
        of a table that it could not open.)"""
        if not hasattr(self, "base"):
            self.base = [t for t in self.every_table() if t != "audit"]
        rows = {t: sorted(map(repr, self.rows(f"SELECT * FROM {t}"))) for t in self.base}
        return {**rows, "audit": [f"up to {self.audits()}"]}


@pytest.fixture(scope="module")
def console(database):
    return Console(database)


def test_every_procedure_and_parameter_is_known(console):
    unknown = {(p, n) for p, params in console.procedures.items() for n in params
               if n not in GOOD and n not in GOOD_OF.get(p, {})}
    assert len(console.procedures) > 30 and not unknown, "say in GOOD what a good argument is"


def hostile(kind, good):
    if kind in ("text", "longtext", "varchar"):
        near = [good.upper(), good + " ", " " + good, good + "\0", good + "\u0301", good + "%"] if good else []
        return TEXTS + near, near
    if kind in ("decimal", "int", "bigint"):
        return NUMBERS, []
    if kind == "datetime":
        return TIMES, []
    assert kind == "longblob", kind
    return BINARY, []


def is_fraction(value):
    return isinstance(value, float) and value != int(value)


def changes(before, after):
    """What differs between two states, a line each."""
    lines = []
    for table, rows in after.items():
        old, new = collections.Counter(before[table]), collections.Counter(rows)
        lines += [f"{table}: - {row[:1500]}" for row in old - new] + [f"{table}: + {row[:1500]}" for row in new - old]
    return lines


def says(value, error, kind, parameter):
    """What is wrong with an answer, or nothing."""
    number, text = error or (0, "")
    if error is None and is_fraction(value) and parameter != "p_per_s":
        return "a fraction was rounded"
    if value in NO_UTF8:
        return None if number in (REFUSED, NO_UTF8_SAYS) or kind == "longtext" and number in CONVERTED else \
            f"bytes that are no text: {error}"
    if number not in (0, REFUSED):
        return f"{number} {text[:100]}"
    return f"says only {text!r}" if number and len(text) < 12 else None


def try_all(console, procedure, parameter, kind):
    """What is wrong with its answers, as lines."""
    good = console.good(procedure)
    values, near = hostile(kind, good[parameter])
    before, refused, done = console.state(), [], False
    audits = console.audits()
    expected = {0} if procedure in SILENT else {0, 1} if procedure in COUNTS else {1}
    for value in values + NO_UTF8 * (kind in ("text", "longtext")):
        args = {**good, parameter: value}
        shown = f"{procedure}({parameter}={repr(value)[:60]})"
        error = console.call(procedure, args)
        if what := says(value, error, kind, parameter):
            yield f"{shown}: {what}"
        if error:
            refused.append(args)
            continue
        after = console.audits()
        if (rows := (after - audits) // console.step) not in expected:
            yield f"{shown}: done, with {rows} rows in audit with those refused before it"
        if value in near and parameter in MATCHES and procedure not in MAKES:
            yield f"{shown}: was taken for {good[parameter]!r}"
        audits, done = after, True
    if done:  # those refused once more, by themselves
        before = console.state()
        again = [args for args in refused if console.call(procedure, args) is None]
    if not (done and again) and (changed := changes(before, console.state())):
        yield f"{procedure}({parameter}=..): all were refused, and something changed: {changed}"


def test_hostile_arguments(console):
    wrong = [line for procedure, params in console.procedures.items() for parameter, kind in params.items()
             for line in try_all(console, procedure, parameter, kind)]
    assert not wrong, "\n".join([f"{len(wrong)} answers are wrong:", *wrong])


# ---- sessions that are set up in a strange way ----------------------------------------------------

STRANGE = ("timestamp=86400", "sql_mode=''", "time_zone='+13:00'", "group_concat_max_len=4", "sql_safe_updates=1",
           "autocommit=0", "div_precision_increment=0", "sql_select_limit=1", "lc_time_names='ja_JP'",
           "character_set_results='latin1'", "collation_connection='utf8mb4_general_ci'", "unique_checks=0",
           "foreign_key_checks=0", "auto_increment_increment=65535", "auto_increment_offset=77")
NOT_PUBLISH = ("SESSION TRANSACTION READ ONLY", "max_join_size=1")  # it is part of the caller's transaction, and sets nothing
REGEX_FLAGS = "default_regex_flags='EXTENDED,MULTILINE,DOTALL'"  # MariaDB's
FORCED = ("0", "18446744073709551614")  # SET insert_id, for the next row made
# What an audit row says nothing after: it is gone.
GONE = {"token_revoke_undo", "certificate_remove", "schedule_delete", "publisher_deny", "dead_letter_discard",
        "dead_letter_discard_all", "timer_cancel", "timer_cancel_id", "timer_discard", "inbox_discard", "inbox_discard_all"}


@pytest.fixture
def strange(database):
    """A schema of its own, in which there is one of each, for a session that is set up so."""
    c = Console(database)
    c.objects("gone", "theirs", "their-k", "tock", "them", "theirs", "worse")
    alpha, queue = c.id("alpha"), c.rows("SELECT subscription_id AS n FROM subscription WHERE name='work'")[0]["n"]
    for n in range(40):
        c.run("INSERT INTO dead_letter(tenant_id,subscription_id,partition_id,seq,attempt,reason,history,attributes,body)"
              " VALUES (%s,%s,0,%s,1,'why','[]','[{\"topic\":\"t\",\"o\":0,\"l\":1}]','x')", alpha, queue, n)
    c.run("UPDATE tenant SET state=3 WHERE name='gone'")
    return c


def more_of(console, procedure):
    """What a call needs that another one has taken, or may not find taken: its arguments."""
    alpha, args = console.id("alpha"), {}
    timer = ("INSERT INTO timer(kind,tenant_id,refused,history,attributes,body) VALUES (1,%s,'no','[]',"
             "'[{\"topic\":\"t\",\"o\":0,\"l\":1}]','x')")
    if procedure.startswith("timer_") and procedure != "timer_cancel":
        args["p_timer_id"] = console.run(timer, alpha)
    if procedure.startswith("inbox_"):
        aside = console.run("INSERT INTO inbox(tenant_id,state,account,topic,payload,reason) VALUES"
                            " (%s,2,'x','t','x','why')", alpha)
        args = {} if procedure.endswith("_all") else {"p_inbox_id": aside}
    if procedure in ("dead_letter_redrive", "dead_letter_discard"):
        ids = [r["i"] for r in console.rows("SELECT dead_letter_id AS i FROM dead_letter ORDER BY 1 LIMIT 5")]
        args["p_ids"] = json.dumps(ids)
    if procedure == "tenant_set_partitions":
        args["p_partitions"] = 2
    if procedure == "publisher_deny":
        console.run("CALL publisher_allow('someone','alpha')")
    if procedure == "tenant_delete":
        args["p_name"] = "beta"
    return args


def order(procedure):
    """Those that take away what others name come last."""
    return any(word in procedure for word in ("delete", "remove", "retire", "undo", "cancel", "suspend")), procedure


def test_a_strange_session(strange):
    """Whatever it has set, each call does the same, is dated by the server's clock and says what it made."""
    wrong = []
    for procedure in sorted(strange.procedures, key=order):
        args = {**strange.good(procedure), **more_of(strange, procedure)}
        since, audits = strange.rows("SELECT UTC_TIMESTAMP(3) AS t")[0]["t"], strange.audits()
        for setting in (*STRANGE, *[REGEX_FLAGS] * (stack.ENGINE != "mysql"), *NOT_PUBLISH * (procedure not in SILENT)):
            strange.run(f"SET {setting}")
        error = strange.call(procedure, args)
        strange.connection.rollback()
        strange.connect()
        rows = strange.rows("SELECT at, detail FROM audit WHERE audit_id>%s", audits)
        if error or len(rows) != (procedure not in SILENT):
            wrong.append(f"{procedure}: {error}, {len(rows)} rows in audit")
        for row in rows:
            after = json.loads(row["detail"])["after"]
            if abs((row["at"] - since).total_seconds()) > 60:
                wrong.append(f"{procedure}: dated {row['at']}")
            if (after is None) != (procedure in GONE):
                wrong.append(f"{procedure}: after it was {after}")
    for table in strange.every_table():
        for column in strange.columns(table):
            if column["name"] in ("created_at", "published_at", "since", "sealed_at", "started_at"):
                old = strange.rows(f"SELECT COUNT(*) AS n FROM {table} WHERE {column['name']}<'2020-01-01'")[0]["n"]
                wrong += [f"{table}.{column['name']}: {old} rows of 1970"] * (old > 0)
    row, = strange.rows("SELECT issued_before AS t FROM revocation WHERE kind=3")
    assert not wrong and row["t"].year >= 2026, "\n".join(wrong)


def tops(console):
    """Of each table that counts: the highest id that there is."""
    counted = {t: c["name"] for t in console.every_table() for c in console.columns(t) if "auto_increment" in c["extra"]}
    assert len(counted) > 5
    return {t: console.rows(f"SELECT COALESCE(MAX({c}),0) AS n, COALESCE(MIN({c}),1) AS least FROM {t}")[0]
            for t, c in counted.items()}


@pytest.mark.parametrize("completion, forced", [*zip(("CHAIN", "RELEASE"), FORCED)])
def test_a_session_that_forces_an_id_and_the_end_of_a_commit(strange, completion, forced):
    """Each call does what it says in it or is refused; the session and its settings stay, and so does the room in every table."""
    before, wrong, session = tops(strange), [], strange.rows("SELECT CONNECTION_ID() AS id")
    for procedure in sorted(set(strange.procedures) - SILENT, key=order):
        args, audits = {**strange.good(procedure), **more_of(strange, procedure)}, strange.audits()
        strange.run(f"SET completion_type='{completion}', insert_id={forced}")
        error = strange.call(procedure, args)
        done = (strange.audits() - audits) // strange.step
        if error and (error[0] != REFUSED or "SET insert_id" not in error[1] or done) or not error and done != 1:
            wrong.append(f"{procedure}: {error}, {done} rows in audit")
        assert strange.rows("SELECT CONNECTION_ID() AS id, @@completion_type AS t") == [{**session[0], "t": completion}]
        if error:
            strange.connect()
            session = strange.rows("SELECT CONNECTION_ID() AS id")
    assert not wrong, "\n".join(wrong)
    for table, now in tops(strange).items():
        assert now["least"] > 0 and now["n"] < before[table]["n"] + 200, (table, before[table], now)


@pytest.fixture(scope="module")
def published(database):
    """A schema of its own, whose owner publishes for alpha."""
    return Console(database)


@pytest.fixture
def publishing(published):
    """It, and a new session."""
    published.connect()
    published.run("DELETE FROM inbox")
    return published


def test_publish_in_a_session_that_forces_an_id(publishing):
    """One tenant's application could stop publish() for all of them, for good."""
    for forced in FORCED:
        for autocommit in (0, 1):
            publishing.run(f"SET autocommit={autocommit}, insert_id={forced}")
            error = publishing.call("publish", publishing.good("publish"))
            publishing.run("COMMIT")
            publishing.connect()
            publishing.run("CALL publish('alpha','a',NULL,'after',NULL)")
            # also with the id 0, which MariaDB takes for none
            assert error and error[0] == REFUSED and "SET insert_id" in error[1] or not error and forced == "0"
    top = tops(publishing)["inbox"]
    assert 0 < top["least"] and top["n"] < 100


def test_publish_leaves_the_session_as_it_was(publishing):
    settings = ("unique_checks", "foreign_key_checks", "auto_increment_increment", "timestamp", "last_insert_id", "autocommit")
    publishing.run("SET unique_checks=0, foreign_key_checks=0, timestamp=86400, autocommit=0, last_insert_id=7")
    look = "SELECT " + ",".join(f"@@{s}" for s in settings)
    before = publishing.rows(look)
    publishing.run("CALL publish('alpha','a',NULL,'x',NULL)")
    assert publishing.call("publish", {**publishing.good("publish"), "p_tenant": "nobody"})[0] == REFUSED
    assert publishing.rows(look) == before


def test_a_script_that_loads_a_dump_does_not_lock_the_inbox(publishing, database):
    """With what such scripts set MariaDB locks all of a table that was empty, until the transaction ends."""
    call = "CALL publish('alpha','a',NULL,'x',NULL)"
    publishing.run("CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY)")
    with contextlib.closing(database.connect(publishing.name)) as root, root.cursor() as q:
        q.execute("CALL publisher_allow(SUBSTRING_INDEX(USER(),'@',1),'alpha')")
        q.execute(f"CREATE TRIGGER orders_publish AFTER INSERT ON orders FOR EACH ROW {call}")
    try:
        for text in (call, "INSERT INTO orders VALUES (),()"):
            publishing.run("SET unique_checks=0, foreign_key_checks=0")
            publishing.run("START TRANSACTION")
            publishing.run(text)
            with contextlib.closing(stack.connect(publishing.dsn)) as other, other.cursor() as q:
                q.execute("SET innodb_lock_wait_timeout=1")
                q.execute(call)
            publishing.run("ROLLBACK")
            publishing.run("DELETE FROM inbox")
    finally:
        publishing.run("DROP TABLE orders")


@pytest.mark.skipif(stack.ENGINE == "mysql", reason="MariaDB's setting")
def test_a_second_line_is_looked_at_too(publishing):
    """With MULTILINE the patterns that check a text would look at its first line alone."""
    filters = {"p_filters": json.dumps(["a#b\n#"])}
    for procedure, args in (("subscription_create", filters), ("tenant_create", {"p_name": "a\nb"}),
                            ("schedule_create", {"p_name": "tick", "p_cron": "* * * * *\nx"})):
        publishing.run(f"SET {REGEX_FLAGS}")
        error = publishing.call(procedure, {**publishing.good(procedure), **args})
        publishing.connect()
        assert error and error[0] == REFUSED, (procedure, error)


@pytest.mark.parametrize("time", ["tomorrow", "2026-12-32 10:00:00", "0000-00-00", "1969-07-20"])
def test_a_time_that_is_none_is_not_now(publishing, time):
    """In a session that is not strict it becomes 0000-00-00."""
    publishing.run("SET sql_mode=''")
    error = publishing.call("publish_at", {**publishing.good("publish_at"), "p_deliver_at": time})
    assert error and error[0] == REFUSED and "deliver_at is no time" in error[1]
    assert not publishing.rows("SELECT 1 FROM inbox")


def test_a_name_that_is_no_text_is_nobodys(strange):
    """Where a session is not strict MySQL cut the argument short, and took it for a tenant's name."""
    strange.run("SET sql_mode=''")
    for name in NO_UTF8 + [b"alpha" + bad for bad in NO_UTF8]:
        error = strange.call("tenant_set_weight", {"p_name": name, "p_weight": 9})
        assert error and error[0] in (REFUSED, NO_UTF8_SAYS), (name, error)
    assert strange.rows("SELECT weight FROM tenant WHERE name='alpha'")[0]["weight"] == 1
    strange.connect()


# ---- one tenant's name with another's objects -----------------------------------------------------

# Procedures that take a tenant and the name of something it has: the parameters that name it, and what
# beta has. With alpha's name each is refused, in the words for what nobody has.
OTHERS = {
    **{f"subscription_{verb}": {"p_name": "theirs"} for verb in (
        "pause", "resume", "seek", "set_policy", "delete")},
    **{f"dead_letter_{verb}_all": {"p_name": "theirs"} for verb in ("redrive", "discard")},
    **{f"schedule_{verb}": {"p_name": "tock"} for verb in ("pause", "resume", "delete")},
    "key_retire": {"p_kid": "their-k"}, "timer_cancel": {"p_subject": "them", "p_name": "theirs"},
    "token_revoke_undo": {"p_kind": "subject", "p_name": "worse"},
    "certificate_remove": {"p_fingerprint": fingerprint("beta")},
}
# And those where there is no such name: they act on the tenant named, or make what is named in it alone.
NO_OTHERS = {
    "tenant_create", "tenant_suspend", "tenant_resume", "tenant_delete", "tenant_purge_step", "tenant_set_weight",
    "tenant_set_limit", "tenant_set_partitions", "key_add", "subscription_create", "schedule_create", "publish", "publish_at",
    "publisher_allow", "publisher_deny", "token_revoke_subject", "token_revoke_id", "token_revoke_before",
    "issuer_add", "issuer_set", "issuer_retire", "certificate_add", "inbox_retry_all", "inbox_discard_all",
    # by an id of the whole schema, which only an admin can see: the row says whose it is
    "dead_letter_redrive", "dead_letter_discard", "timer_cancel_id", "timer_retry", "timer_discard",
    "inbox_retry", "inbox_discard",
}


def test_every_procedure_is_in_the_matrix(console):
    assert set(console.procedures) == set(OTHERS) | NO_OTHERS
    assert all("p_tenant" in console.procedures[p] for p in OTHERS)


@pytest.fixture(scope="module")
def both(console):
    """Alpha is there again, and beta has one of each under names that alpha has not."""
    console.run("UPDATE tenant SET state=1 WHERE name IN ('alpha','beta')")
    console.objects("beta", "theirs", "their-k", "tock", "them", "theirs", "worse")
    return console


@pytest.mark.parametrize("procedure", sorted(OTHERS, key=lambda p: ("delete" in p, p)))
def test_names_of_another_tenant(both, procedure):
    theirs = {**both.good(procedure), **OTHERS[procedure]}
    nobodys = {p: v[::-1] if p in OTHERS[procedure] and p != "p_kind" else v for p, v in theirs.items()}
    before = both.state()
    answers = []
    for args in (theirs, nobodys):
        number, text = both.call(procedure, {**args, "p_tenant": "alpha"})
        assert number == REFUSED
        for p in OTHERS[procedure]:
            text = text.replace(args[p], "NAME")
        answers.append(text)
    assert answers[0] == answers[1] and both.state() == before
    assert both.call(procedure, {**theirs, "p_tenant": "beta"}) is None, "it is there"


@pytest.mark.parametrize("procedure", ["publish", "publish_at"])
def test_an_application_publishes_for_its_tenant_alone(both, procedure):
    """Its account may for alpha: for beta, and for nobody, it hears the same."""
    def says(tenant):
        error = both.call(procedure, {**both.good(procedure), "p_tenant": tenant})
        return error and (error[0], error[1].replace(tenant, "NAME"))
    assert says("alpha") is None
    assert says("beta") == says("atbe") and says("beta")[0] == REFUSED


# ---- the same on the command line -----------------------------------------------------------------

# Verbs that name something of a tenant's: the options that do, with gamma's name for it in the place of {}.
QUEUE = ["--kind", "queue", "--name", "{}"]
CLI_OTHERS = {
    "tenant key-retire": ("alpha", "--issuer", "i", "--kid", "{}", "its-k"),
    "tenant token-revoke": ("alpha", "--undo", "--subject", "{}", "worst"),
    "subscription seek": ("--tenant", "alpha", *QUEUE, "--to", "earliest", "its"),
    "subscription delete": ("--tenant", "alpha", *QUEUE, "its"),
    **{f"schedule {verb}": ("{}", "--tenant", "alpha", "clock") for verb in ("pause", "resume", "delete")},
    "timer cancel": ("{}", "--tenant", "alpha", "--subject", "it", "its"),
}
# And those that do not: they act on a tenant as a whole, list what one has, or make what they name.
CLI_NO_OTHERS = {f"tenant {verb}" for verb in ("create", "list", "show", "suspend", "resume", "delete", "key-add", "key-list",
                                               "partitions", "export", "import", "checksum")} | {
    "subscription list", "schedule list", "schedule create", "timer list"}
# These know a tenant by a token alone, which MQTT's matrix tries (test_isolation.py), or know none.
CLI_NO_TENANT = {"ca", "migrate", "node", "dev", "pub", "sub", "doctor", "token", "bench"}


def words(*command):
    """What stands in the list of commands, or of verbs."""
    done = stack.leat(*command or ["help"], *["--help"] * bool(command), check=False)
    return set(re.findall(r"^  (?:leat )?(?!leat )([a-z][a-z-]*) +\S", done.stdout + done.stderr, re.M))


def test_every_verb_of_the_command_line_is_in_the_matrix():
    verbs = {f"{command} {verb}" for command in words() - CLI_NO_TENANT for verb in words(command)}
    assert verbs == set(CLI_OTHERS) | CLI_NO_OTHERS and CLI_NO_TENANT <= words()


@pytest.fixture(scope="module")
def gamma(console):
    """Alpha is there again, and gamma has one of each under names that nobody else has."""
    console.run("UPDATE tenant SET state=1 WHERE name='alpha'")
    console.tenant("gamma")
    console.objects("gamma", "its", "its-k", "clock", "it", "its", "worst")


@pytest.mark.parametrize("verb", sorted(CLI_OTHERS))
def test_names_of_another_tenant_on_the_command_line(console, gamma, verb):
    *options, theirs = CLI_OTHERS[verb]
    before, answers = console.state(), []
    for name in (theirs, theirs[::-1]):
        done = stack.leat(*verb.split(), *(o.replace("{}", name) for o in options), "--db", console.dsn, check=False)
        assert done.returncode == 1 and done.stdout == "", done.stderr
        answers.append(done.stderr.replace(name, "NAME"))
    assert answers[0] == answers[1] and "alpha" in answers[0] and console.state() == before
