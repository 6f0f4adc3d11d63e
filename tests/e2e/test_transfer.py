"""A tenant goes as a whole: all its data is removed in steps when it is deleted, and moved from one
database to another. Tables are found by their column tenant_id, so that a new one cannot be forgotten."""

import contextlib
import hashlib
import os
import re
import resource
import signal
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pymysql
import pytest

from leat import mqtt, stack
from leat.schema import Schema
from leat.stack import LEAT, ROOT, Node, Tenants, leat, wait_for

KEPT = {"clean": False, "props": [("session_expiry", 3600)]}
HEADER = 128  # bytes of a chunk's header

# Columns that are not carried as they are: ids that a database counts, who has it now, and what a
# database gives anew. The tenant's name and state are given to the import.
NOT_CARRIED = {"tenant": {"full_since", "name", "name_text", "state"}, "subscription": {"owner", "settlements"},
               "cursors": {"owner"}, "timer": {"session_id"}, "inbox": {"bytes"}}


def definition():
    """sql/transfer.def: {table that is carried: its text}, {table that is left out}."""
    with open(os.path.join(ROOT, "sql", "transfer.def")) as f:
        text = f.read()
    carried = {m[1]: m[0] for m in re.finditer(r"^TRANSFER\((\w+),.*?\)$", text, re.M | re.S)}
    return carried, set(re.findall(r"^TRANSFER_LEFT_OUT\((\w+)", text, re.M))


class Moved(Schema):
    def tenant_with_everything(self, name, rows=3):
        """A suspended tenant that has something in every table."""
        me = self.tenant(name)
        self.run("CALL tenant_suspend(%s)", name)
        for i, limit in enumerate(c["name"] for c in self.columns("tenant") if c["name"].startswith("max_")):
            self.run(f"UPDATE tenant SET {limit}={i + 7} WHERE tenant_id=%s", me)
        subscriptions = [self.fill("subscription", me, i, owner=None, kind=3) for i in range(rows)]
        seq = 100
        for table in self.tables():
            for i in range(rows):
                refers = {"subscription_id": subscriptions[-1 - i]}
                if table == "timer":
                    self.fill(table, me, i + 50, **refers, kind=3)
                    refers = {"subscription_id": 0, "kind": 1, "due_at": "2001-01-01 00:00:00.000"}
                if table == "head":
                    refers = {"partition_id": i, "next_seq": 100 + 2 * rows, "first_seq": 100,
                              "bytes": 1000 + i, "removed_bytes": 10 + i}
                if table == "journal":
                    refers = {"partition_id": i, "event_count": 2}
                    for seq in range(100, 100 + 2 * rows, 2):
                        self.fill(table, me, seq, base_seq=seq, **refers)
                elif table not in ("tenant", "subscription", "audit", "tenant_move"):
                    self.fill(table, me, i, **refers)
        self.run("DELETE FROM head WHERE tenant_id=%s AND partition_id>=%s", me, rows)
        return me

    def content(self, name):
        """What is carried of a tenant, in a form that is the same in every database."""
        me, found = self.id(name), {}
        carried, _ = definition()
        names = {r["subscription_id"]: (r["kind"], r["subject"], r["name"]) for r in self.rows(
            "SELECT subscription_id,kind,subject,name FROM subscription WHERE tenant_id=%s", me)}
        for table in carried:
            wanted = [c["name"] for c in self.columns(table) if c["name"] not in NOT_CARRIED.get(table, set())
                      and "auto_increment" not in c["extra"] and c["name"] != "tenant_id"]
            rows = self.rows(f"SELECT {','.join(wanted)} FROM {table} WHERE tenant_id=%s", me)
            for r in rows:
                if "subscription_id" in r:
                    r["subscription_id"] = names.get(r["subscription_id"])
            found[table] = sorted(repr(sorted(r.items())) for r in rows)
        return found


@pytest.fixture(scope="module")
def source(database):
    return Moved(database)


@pytest.fixture(scope="module")
def target(database):
    return Moved(database)


# ---- deleting -------------------------------------------------------------------------------------

def test_a_purge_leaves_nothing(source):
    """Of any table with a tenant_id; the tenant's row keeps its name taken, and audit is kept."""
    one, other = source.tenant_with_everything("purged"), source.tenant_with_everything("purged-not")
    tables = [t for t in source.tables() if t not in ("audit", "tenant", "tenant_move")]
    before = {t: source.count(t, other) for t in tables}
    assert all(before.values()), f"nothing in {[t for t, n in before.items() if not n]}"
    source.run("INSERT INTO tenant_move(tenant_id,direction,source) VALUES (%s,1,'')", one)
    source.run("CALL tenant_delete('purged')")
    steps = []
    while not steps or "nothing" not in steps[-1]["progress"]:
        steps.append(source.rows("CALL tenant_purge_step('purged', 4)")[0])
        assert steps[-1]["removed_rows"] <= 4
    left = {t: source.count(t, one) for t in tables + ["tenant_move"] if source.count(t, one)}
    assert not left, f"tenant_purge_step leaves rows in {left}"
    assert {t: source.count(t, other) for t in tables} == before
    assert sum(s["removed_rows"] for s in steps) == sum(before.values()) + 1
    audited = source.rows("SELECT COUNT(*) AS n FROM audit_log WHERE action='tenant_purge_step' AND tenant='purged'")
    assert audited[0]["n"] == len([s for s in steps if s["removed_rows"]])


# ---- moving ---------------------------------------------------------------------------------------

def test_every_table_and_column_is_thought_of(source):
    carried, left_out = definition()
    assert set(source.tables()) == set(carried) | left_out, "name it in sql/transfer.def"
    for table, text in carried.items():
        words = set(re.findall(r"\w+", text))
        columns = {c["name"] for c in source.columns(table) if "auto_increment" not in c["extra"]}
        missing = columns - words - NOT_CARRIED.get(table, set())
        assert not missing, f"{table}: {missing} in sql/transfer.def"


def checksum(text):
    return re.search(r"checksum (\w{64}) of (\d+) rows", text).groups()


def export(schema, tenant, file, *more, **kw):
    return leat("tenant", "export", tenant, "--file", file, "--db", schema.dsn, *more, **kw).stdout


def import_(schema, file, *more, **kw):
    return leat("tenant", "import", "--file", file, "--db", schema.dsn, *more, **kw).stdout


def test_all_there_is(source, target, tmp_path):
    source.tenant_with_everything("whole", rows=40)
    file = tmp_path / "whole"
    said = checksum(export(source, "whole", file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert checksum(leat("tenant", "checksum", "whole", "--db", source.dsn).stdout) == said
    answer = import_(target, file, "--as", "whole-2")
    assert checksum(answer) == said and "tenant whole-2 is complete, verified and suspended" in answer
    assert target.content("whole-2") == source.content("whole")
    assert checksum(leat("tenant", "checksum", "whole-2", "--db", target.dsn).stdout) == said
    # again: neither does anything
    assert "was complete already" in export(source, "whole", file)
    assert "was complete already" in import_(target, file, "--as", "whole-2")
    # and back, under another name, since names are never reused
    back = tmp_path / "back"
    assert checksum(export(target, "whole-2", back, "--without-keys"))[0] != said[0]
    assert "verified" in import_(source, back, "--as", "whole-3")
    kept = {t: rows for t, rows in source.content("whole").items() if t not in ("tenant_key", "client_certificate")}
    assert source.content("whole-3") == {**kept, "tenant_key": [], "client_certificate": []}
    for schema, action in ((source, "tenant_export"), (target, "tenant_import")):
        row, = schema.rows("SELECT who, detail FROM audit_log WHERE action=%s AND tenant LIKE 'whole%%'"
                           " AND detail LIKE %s", action, f"%{said[0]}%")
        assert row["who"].startswith("leat@")


def killed_after(argv, seconds):
    """Run it, kill -9 it after so long; whether it had ended by itself."""
    p = subprocess.Popen([LEAT, *map(str, argv)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        p.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        p.send_signal(signal.SIGKILL)
        p.wait()
        return False


def big_tenant(schema, name, batches=1500):
    me = schema.tenant_with_everything(name, rows=4)
    schema.fill("head", me, 0, partition_id=9, next_seq=batches + 1, first_seq=1, bytes=0, removed_bytes=0)
    with schema.connection.cursor() as q:
        body = os.urandom(1 << 14)
        q.executemany("INSERT INTO journal(tenant_id,partition_id,base_seq,event_count,end_bytes,session_id,"
                      "writer_no,flush_no,attributes,body) VALUES (%s,9,%s,1,0,'s',0,0,'[]',%s)",
                      [(me, i, body[i:]) for i in range(1, batches + 1)])


def test_killed_at_any_point(source, target, tmp_path):
    """Both ends go on where they were, to the same bytes and the same content."""
    big_tenant(source, "big")
    whole, file = tmp_path / "whole", tmp_path / "file"
    said = checksum(export(source, "big", whole))
    args = ["tenant", "export", "big", "--file", file, "--db", source.dsn]
    kills, wait = 0, 0.01
    while not killed_after(args, wait):
        kills, wait = kills + 1, 1.25 * wait + 0.005
    assert checksum(export(source, "big", file)) == said
    assert file.read_bytes() == whole.read_bytes()
    args = ["tenant", "import", "--file", file, "--db", target.dsn]
    wait, stored = 0.02, []
    while not killed_after(args, wait):
        kills, wait = kills + 1, 1.25 * wait + 0.005
        stored += [r["chunks"] for r in target.rows("SELECT m.chunks FROM tenant_move m JOIN tenant t"
                                                    " ON t.tenant_id=m.tenant_id WHERE t.name='big'")]
        if stored and not target.rows("SELECT 1 FROM tenant_move WHERE state=2 AND tenant_id=%s", target.id("big")):
            with pytest.raises(pymysql.Error, match="is not here completely"):
                target.run("CALL tenant_resume('big')")
    assert checksum(import_(target, file)) == said
    assert target.content("big") == source.content("big")
    assert kills > 5 and len(set(stored)) > 2, (kills, stored)


def test_an_import_goes_on_with_a_file_that_grows(source, target, tmp_path):
    """While its tenant is in use, export copies the journal, and import takes what is there. What retention
    removed after it was copied is not in the end."""
    big_tenant(source, "live", batches=600)
    me, file = source.id("live"), tmp_path / "live"
    source.run("CALL tenant_resume('live')")
    source.run("UPDATE journal SET appended_at=UTC_TIMESTAMP(3)-INTERVAL 1 MINUTE WHERE tenant_id=%s", me)
    source.run("UPDATE journal SET appended_at=UTC_TIMESTAMP(3) WHERE tenant_id=%s AND partition_id=9"
               " AND base_seq>590", me)
    assert "is in use: so far only its journal" in export(source, "live", file)
    assert "is not complete yet" in import_(target, file)
    assert target.rows("SELECT COUNT(*) AS n FROM journal WHERE tenant_id=%s AND partition_id=9",
                       target.id("live"))[0]["n"] == 590  # the last ten seconds may not be durable yet
    source.run("DELETE FROM journal WHERE tenant_id=%s AND partition_id=9 AND base_seq<=333", me)
    source.run("UPDATE head SET first_seq=334 WHERE tenant_id=%s AND partition_id=9", me)
    said = checksum(export(source, "live", file, "--suspend"))
    assert source.rows("SELECT state FROM tenants WHERE name='live'") == [{"state": "suspended"}]
    assert checksum(leat("tenant", "checksum", "live", "--db", source.dsn).stdout) == said
    assert checksum(import_(target, file)) == said
    assert target.content("live") == source.content("live")


def export_refused(schema, tenant, file, *more):
    done = leat("tenant", "export", tenant, "--file", file, "--db", schema.dsn, *more, check=False)
    assert done.returncode == 1 and "complete" not in done.stdout, done
    return done.stderr


def test_a_file_whose_tenant_was_resumed_is_not_believed(source, target, tmp_path):
    """The documented way back, then the move from its beginning: with the old file it is an error, before
    anything is deleted; with a new one all is there."""
    me = source.tenant_with_everything("back")
    file = tmp_path / "file"
    first = checksum(export(source, "back", file))
    size = file.stat().st_size
    source.run("CALL tenant_resume('back')")
    source.run("CALL tenant_suspend('back')")  # suspended, but leaders touch it
    assert "its tenant was resumed since" in export_refused(source, "back", file)
    source.run("CALL tenant_resume('back')")
    source.run("UPDATE head SET next_seq=107,first_seq=100 WHERE tenant_id=%s AND partition_id=0", me)
    source.fill("journal", me, 500, partition_id=0, base_seq=106, event_count=1)
    for more in ([], ["--suspend"]):
        said = export_refused(source, "back", file, *more)
        assert "its tenant was resumed since" in said and "export to another file" in said
        assert source.rows("SELECT state FROM tenants WHERE name='back'") == [{"state": "active"}]
    assert file.stat().st_size == size
    again = tmp_path / "again"
    said = checksum(export(source, "back", again, "--suspend"))
    assert int(said[1]) == int(first[1]) + 1
    assert checksum(leat("tenant", "checksum", "back", "--db", source.dsn).stdout) == said
    assert checksum(import_(target, again)) == said
    assert target.content("back") == source.content("back")
    assert "is what the tenant is" in export(source, "back", again)


def test_a_file_whose_tenant_was_changed_is_not_believed(source, tmp_path):
    """By whoever may write its tables."""
    me = source.tenant_with_everything("changed")
    file = tmp_path / "file"
    sum_, rows = checksum(export(source, "changed", file))
    source.run("DELETE FROM revocation WHERE tenant_id=%s LIMIT 1", me)
    now, _ = checksum(leat("tenant", "checksum", "changed", "--db", source.dsn).stdout)
    said = export_refused(source, "changed", file, "--suspend")
    assert "was changed since" in said and "export to another file" in said
    assert f"{rows} rows ({sum_[:16]})" in said and f"{int(rows) - 1} rows ({now[:16]})" in said
    other = tmp_path / "other"
    assert checksum(export(source, "changed", other)) == (now, str(int(rows) - 1))


def test_what_comes_while_the_rest_is_copied(source, tmp_path):
    """A node that followed the suspension late has stored more behind what was copied: it is fetched."""
    me = source.tenant_with_everything("late")
    file = tmp_path / "file"
    with contextlib.closing(stack.connect(source.dsn)) as other, other.cursor() as q, ThreadPoolExecutor() as pool:
        source.run("INSERT INTO node_session(session_id,name) VALUES ('it is waited for','slow')")
        said = pool.submit(export, source, "late", file)
        wait_for(lambda: source.count("tenant_move", me), 20, what="a tenant that is frozen")
        q.execute("LOCK TABLES dead_letter WRITE")  # read after the journal
        source.run("UPDATE node_session SET state=0 WHERE name='slow'")
        wait_for(lambda: source.rows("SELECT 1 FROM information_schema.processlist WHERE state LIKE %s AND db=%s",
                                     "Waiting for table metadata lock%", source.name), 20, what="the export at that table")
        source.fill("journal", me, 500, partition_id=0, base_seq=106, event_count=1)
        source.run("UPDATE head SET next_seq=107 WHERE tenant_id=%s AND partition_id=0", me)
        q.execute("UNLOCK TABLES")
        assert checksum(said.result()) == checksum(leat("tenant", "checksum", "late", "--db", source.dsn).stdout)
    assert "is what the tenant is" in export(source, "late", file)


# What a tenant that is being moved allows: the end of it, and what is not carried. The others are
# called with something that is there, so that they refuse it for nothing else.
MAY = {"tenant_suspend", "tenant_resume", "tenant_delete", "tenant_purge_step", "tenant_create", "publisher_allow",
       "publisher_deny", "issuer_add", "issuer_set", "issuer_retire"}
OTHERWISE = {"publish", "publish_at"}  # refused because it is suspended


def fingerprint(tenant):
    return hashlib.sha256(tenant.encode()).hexdigest()


def may_not(schema, tenant, me):
    """A call of each procedure that changes what is carried."""
    def first(column, table, also="1=1"):
        return schema.rows(f"SELECT MIN({column}) AS v FROM {table} WHERE tenant_id=%s AND {also}", me)[0]["v"]
    queue = [tenant, "queue", "", "work"]
    dead, scheduled, refused, aside = (first("dead_letter_id", "dead_letter"), first("timer_id", "timer", "kind=1"),
                                       first("timer_id", "timer", "refused IS NOT NULL"), first("inbox_id", "inbox", "state=2"))
    return {
        "tenant_set_weight": [tenant, 2], "tenant_set_limit": [tenant, "max_connections", 1],
        "tenant_set_partitions": [tenant, 7], "key_add": [tenant, tenant, "new", "HS256", b"s" * 40],
        "key_retire": [tenant, tenant, "k"], "subscription_create": [tenant, "queue", "", "new", "a", None],
        "subscription_seek": [*queue, "latest"], "subscription_delete": queue, "subscription_pause": queue,
        "subscription_resume": queue, "subscription_set_policy": [*queue, "max_attempts", 3],
        "dead_letter_redrive": [str(dead)], "dead_letter_discard": [str(dead)],
        "dead_letter_redrive_all": [*queue, None, 1, None], "dead_letter_discard_all": [*queue, None, 1],
        "timer_cancel": [tenant, "me", "note"], "timer_cancel_id": [scheduled], "timer_retry": [refused],
        "timer_discard": [refused], "schedule_create": [tenant, "new", "@daily", None, "a", None, b"x"],
        "schedule_pause": [tenant, "tick"], "schedule_resume": [tenant, "tick"], "schedule_delete": [tenant, "tick"],
        "inbox_retry": [aside], "inbox_discard": [aside],
        "inbox_retry_all": [tenant, None, None], "inbox_discard_all": [tenant, None, None],
        "token_revoke_subject": [tenant, "x", None, None, None],
        "token_revoke_id": [tenant, "x", None, None], "token_revoke_before": [tenant, None, None, None],
        "token_revoke_undo": [tenant, "subject", "bad"], "certificate_add": [tenant, "cd" * 32, "me", "[]"],
        "certificate_remove": [tenant, fingerprint(tenant)],
    }


def refusals(schema, tenant, me):
    """What each of them says, or None."""
    said = {}
    for procedure, args in may_not(schema, tenant, me).items():
        assert None not in args[:1], procedure
        try:
            schema.run(f"CALL {procedure}({','.join(['%s'] * len(args))})", *args)
            said[procedure] = None
        except pymysql.Error as e:
            said[procedure] = e.args[1]
    return said


def fill_by_procedures(schema, tenant):
    """All that the procedures of may_not() name."""
    me = schema.tenant(tenant)
    schema.run("CALL subscription_create(%s,'queue','','work','a',NULL)", tenant)
    schema.run("CALL key_add(%s,%s,'k','HS256',REPEAT('s',40))", tenant, tenant)
    schema.run("CALL schedule_create(%s,'tick','@daily',NULL,'a',NULL,'x')", tenant)
    schema.run("CALL token_revoke_subject(%s,'bad',NULL,NULL,NULL)", tenant)
    schema.run("CALL certificate_add(%s,%s,'me','[]')", tenant, fingerprint(tenant))
    subscription, = schema.rows("SELECT subscription_id AS id FROM subscription WHERE tenant_id=%s", me)
    schema.fill("dead_letter", me, 1, subscription_id=subscription["id"])
    schema.fill("timer", me, 1, subscription_id=0, kind=1, subject="me", name="note", refused=None)
    schema.fill("timer", me, 2, subscription_id=0, kind=2, due_at=None, refused="because")
    schema.fill("inbox", me, 1, state=2)
    schema.run("CALL tenant_suspend(%s)", tenant)
    return me


def test_what_may_be_changed_while_it_is_moved(source, target, tmp_path):
    """Nothing that is carried: not once it was copied, and not before an import is complete."""
    me = fill_by_procedures(source, "still")
    public = {r["n"] for r in source.rows("SELECT routine_name AS n FROM information_schema.routines WHERE"
                                          " routine_schema=%s", source.name) if not r["n"].startswith("_")}
    assert public == MAY | OTHERWISE | set(may_not(source, "still", me)), "may it change what is being moved?"
    source.run("UPDATE revocation SET expires_at='2020-01-01' WHERE tenant_id=%s", me)
    file, part = tmp_path / "file", tmp_path / "part"
    said = checksum(export(source, "still", file))
    for procedure, text in refusals(source, "still", me).items():
        assert text == "tenant still is frozen by leat tenant export; tenant_resume ends that", (procedure, text)
    source.tenant("another")
    source.run("CALL token_revoke_id('another','x',NULL,NULL)")  # removes what has run out, but not of this one
    source.run("CALL publisher_allow('someone','still')")
    source.run("CALL tenant_suspend('still')")
    assert checksum(leat("tenant", "checksum", "still", "--db", source.dsn).stdout) == said
    assert "was complete already" in export(source, "still", file)
    # an import up to where the file was cut off; it says how far it is
    part.write_bytes(file.read_bytes()[:-HEADER])
    assert "is not complete yet" in import_(target, part)
    there = target.id("still")
    for procedure, text in refusals_of_names(target, "still", there).items():
        assert text == "tenant still is not here completely: leat tenant import first", (procedure, text)
    assert checksum(import_(target, file)) == said
    assert target.content("still") == source.content("still")
    # complete, it may be changed before it is resumed; and resumed, the source too
    target.run("CALL tenant_set_partitions('still',4)")
    target.run("CALL tenant_set_limit('still','max_connections',9)")
    source.run("CALL tenant_resume('still')")
    assert {p: t for p, t in refusals(source, "still", me).items() if t and "still is" in t} == {}


def refusals_of_names(schema, tenant, me):
    """Of those that name the tenant: before it has anything."""
    by_id = {"dead_letter_redrive", "dead_letter_discard", "timer_cancel_id", "timer_retry", "timer_discard",
             "inbox_retry", "inbox_discard"}
    said = {}
    for procedure, args in may_not(schema, tenant, me).items():
        if procedure in by_id:
            continue
        with pytest.raises(pymysql.Error) as e:
            schema.run(f"CALL {procedure}({','.join(['%s'] * len(args))})", *args)
        said[procedure] = e.value.args[1]
    return said


def test_a_purge_waits_for_an_import(source, target, tmp_path):
    """A chunk that is being stored goes too, and no other comes after it."""
    source.tenant_with_everything("given-up")
    file, part = tmp_path / "file", tmp_path / "part"
    export(source, "given-up", file, "--without-keys")
    part.write_bytes(file.read_bytes()[:-HEADER])
    import_(target, part)
    me, purged = target.id("given-up"), []
    target.run("CALL tenant_delete('given-up')")

    def purge():
        with contextlib.closing(stack.connect(target.dsn)) as c, c.cursor() as q:
            while not purged or purged[-1] != "nothing is left":
                q.execute("CALL tenant_purge_step('given-up',1000)")
                purged.append(q.fetchall()[0][2])
    t = threading.Thread(target=purge)
    target.run("BEGIN")
    target.run("UPDATE tenant_move SET chunks=chunks+1 WHERE tenant_id=%s", me)
    t.start()
    time.sleep(0.5)
    target.fill("subscription", me, 1)
    target.run("COMMIT")
    t.join()
    left = {table: target.count(table, me) for table in target.tables() if table not in ("audit", "tenant")}
    assert purged and not any(left.values()), left
    done = leat("tenant", "import", "--file", file, "--db", target.dsn, check=False)
    assert done.returncode == 1 and "there is a tenant given-up, or was" in done.stderr


def test_a_damaged_file_says_which_chunk(source, target, tmp_path):
    big_tenant(source, "damaged", batches=700)
    file = tmp_path / "file"
    export(source, "damaged", file, "--without-keys")
    whole = file.read_bytes()
    starts, at = [], 0
    while at < len(whole):
        starts.append(at)
        at += HEADER + int.from_bytes(whole[at + 40:at + 48], "big")
    sizes = [b - a for a, b in zip(starts, starts[1:] + [len(whole)])]
    large, last = sizes.index(max(sizes)), len(starts) - 2  # behind that one is only the end
    assert sizes[large] > 4 << 20
    for number, offset in ((2, 20), (2, 45), (2, 90), (2, HEADER), (large, HEADER + 5000), (last, HEADER + 9)):
        place = starts[number] + offset
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:])
        done = leat("tenant", "import", "--file", file, "--as", f"broken-{number}", "--db", target.dsn, check=False)
        assert done.returncode == 1 and f"chunk {number} is damaged" in done.stderr, (number, offset, done)
    file.write_bytes(whole[:starts[large] + HEADER + 100])
    assert "is not complete yet" in import_(target, file, "--as", "short")
    file.write_bytes(whole)
    assert "verified" in import_(target, file, "--as", "short")


def test_what_is_refused(source, target, tmp_path):
    source.tenant_with_everything("refused")
    file = tmp_path / "file"
    export(source, "refused", file)
    target.tenant("taken")

    def says(schema, *args):
        done = leat("tenant", *args, "--db", schema.dsn, check=False)
        assert done.returncode == 1, done
        return done.stderr
    assert "there is a tenant taken, or was" in says(target, "import", "--file", file, "--as", "taken")
    assert "there is a tenant refused, or was" in says(source, "import", "--file", file)
    assert "a key or certificate of this tenant is another's here" in says(source, "import", "--file", file, "--as", "refused-2")
    assert "is not a tenant name" in says(target, "import", "--file", file, "--as", "Not A Name")
    assert "there is no tenant nobody" in says(source, "export", "nobody", "--file", tmp_path / "x")
    assert "choose another file" in says(target, "export", "taken", "--file", file)
    assert "choose another file" in says(source, "export", "refused", "--without-keys", "--file", file)
    assert "No such file" in says(target, "import", "--file", tmp_path / "nothing")
    text = tmp_path / "text"
    text.write_text("no export" * 100)
    assert "is no export of a tenant" in says(target, "import", "--file", text)
    text.write_bytes(b"")
    assert "is no export of a tenant" in says(target, "import", "--file", text)
    newer = bytearray(file.read_bytes())
    newer[7] = ord("2")
    text.write_bytes(newer)
    assert "another version of the format" in says(target, "import", "--file", text)
    target.run("DELETE FROM schema_version ORDER BY version DESC LIMIT 1")
    try:
        assert "leat migrate" in says(target, "import", "--file", file)
    finally:
        leat("migrate", "--db", target.dsn)
    assert "no regular file" in says(source, "export", "refused", "--file", "/dev/full")


def test_a_disk_that_is_full(source, tmp_path):
    """Says so, and goes on when there is room."""
    big_tenant(source, "full", batches=400)
    whole, file = tmp_path / "whole", tmp_path / "file"
    said = export(source, "full", whole)

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
    done = subprocess.run([LEAT, "tenant", "export", "full", "--file", file, "--db", source.dsn], text=True,
                          capture_output=True, check=False, preexec_fn=little_room, restore_signals=False)
    assert done.returncode == 1 and f"cannot write {file}" in done.stderr
    assert checksum(export(source, "full", file)) == checksum(said)
    assert file.read_bytes() == whole.read_bytes()


# ---- with nodes and clients -----------------------------------------------------------------------

@pytest.fixture
def node_on(tmp_path):
    with contextlib.ExitStack() as s:
        def start(schema, name, signers, authority=None):
            n = Node(str(tmp_path / name), schema.dsn, authority=authority)
            n.signers = signers
            n.start()
            s.callback(lambda: n.alive() and n.stop())
            return n
        yield start


def test_clients_find_everything_where_it_went(source, target, node_on, client, tmp_path):
    """An offline session's unacknowledged events, a queue's retries and dead letters, what is scheduled:
    all there after the move, for the same token; nothing that was acknowledged comes twice."""
    source.tenant_with_everything("frozen")  # before there is a node, who would move what is due
    frozen = checksum(export(source, "frozen", tmp_path / "frozen"))
    signers = {"mover": Tenants(str(tmp_path / "keys"), source.dsn).create("mover", "ES256")}
    old = node_on(source, "old", signers)
    offline = client(old, "device", props=[("session_expiry", 3600), ("receive_maximum", 3)], clean=False)
    offline.subscribe("news/#")
    worker = client(old, "worker")
    worker.subscribe("$queue/jobs/jobs/#", props=[("user", ("leat-backoff", "60s")),
                                                  ("user", ("leat-backoff-max", "60s"))])
    publisher = client(old, "publisher")
    publisher.publish_many([(f"news/{i % 3}", str(i)) for i in range(20)])
    assert [int(p.payload) for p in offline.receive_many(5)] == list(range(5))
    # those of the window are sent, and not acknowledged
    wait_for(lambda: {r["acked_through"] for r in source.rows(
        "SELECT acked_through FROM subscription_lag WHERE name='device'")} == {5}, what="a stored cursor")
    offline.reset()
    publisher.publish_many([("jobs/a", "retry"), ("jobs/b", "dead"), ("jobs/c", "later")])
    for p in [worker.receive(ack=False) for _ in range(3)]:
        if p.payload != b"later":
            worker.send(mqtt.puback(p.packet_id, 0x99 if p.payload == b"dead" else 0x80))
    publisher.publish("$delayed/1/news/late", "scheduled")
    wait_for(lambda: source.rows("SELECT 1 FROM dead_letters WHERE tenant='mover'")
             and source.rows("SELECT 1 FROM timers WHERE tenant='mover' AND kind='retry'"), what="settled")
    file = tmp_path / "mover"
    stop, sent = threading.Event(), []

    def publish_on():
        with contextlib.suppress(mqtt.Closed, OSError, AssertionError, TimeoutError):
            while not stop.is_set():
                publisher.publish("news/on", str(len(sent) + 100))
                sent.append(len(sent) + 100)
    t = threading.Thread(target=publish_on)
    t.start()
    try:
        export(source, "mover", file)  # a live round
        said = checksum(export(source, "mover", file, "--suspend"))
    finally:
        stop.set()
        t.join()
    assert worker.closed()[-1].reason == 0x98
    new = node_on(target, "new", signers)
    import_(target, tmp_path / "frozen")
    assert checksum(import_(target, file)) == said
    time.sleep(2)  # much is due, and no leader touches it before the tenant is resumed
    for schema in (source, target):
        assert checksum(leat("tenant", "checksum", "frozen", "--db", schema.dsn).stdout) == frozen
    assert checksum(leat("tenant", "checksum", "mover", "--db", target.dsn).stdout) == said
    assert checksum(leat("tenant", "checksum", "mover", "--db", source.dsn).stdout) == said
    leat("tenant", "resume", "mover", "--db", target.dsn)

    def let_in():
        with contextlib.closing(new.open()) as c:
            return c.connect("probe", signers["mover"].token(), check=False).reason == 0
    wait_for(let_in, 5, "the resumed tenant")
    offline = client(new, "device", props=[("session_expiry", 3600)], clean=False)
    assert offline.connack.present
    expected = [*range(5, 20), *sent]
    client(new, "publisher").publish("news/end", "end")
    got = []
    while not {b"end", b"scheduled"} <= set(got):
        got.append(offline.receive().payload)
    # what was answered is there, once; the one on its way when the tenant was suspended may be
    assert [int(p) for p in got if p.isdigit()] in (expected, [*expected, len(sent) + 100])
    dead, = target.rows("SELECT name, payload FROM dead_letters WHERE tenant='mover'")
    assert (dead["name"], dead["payload"]) == ("jobs", "dead")
    retry, = target.rows("SELECT subscription, attempt, payload FROM timers WHERE tenant='mover' AND kind='retry'")
    assert (retry["subscription"], retry["attempt"], retry["payload"]) == ("jobs", 1, "retry")
    worker = client(new, "worker")
    worker.subscribe("$queue/jobs")
    assert worker.receive().payload == b"later"
