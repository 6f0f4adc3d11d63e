"""leat doctor beside real servers: one as it should be, and one with everything wrong that can be."""

import contextlib
import json
import os
import subprocess
import time
import urllib.parse

import pytest

from leat import stack
from leat.stack import LEAT, SLOW, Database

BAD_SETTINGS = ["--innodb-flush-log-at-trx-commit=2", "--log-bin=binlog", "--server-id=1", "--sync-binlog=0",
                "--binlog-format=STATEMENT", "--max-allowed-packet=1M", "--max-connections=15",
                "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--max-statement-time=30",
                "--innodb-doublewrite=OFF"]
if stack.ENGINE == "mysql":
    BAD_SETTINGS[-3:-1] = ["--innodb-redo-log-capacity=16M", "--max-execution-time=30000"]
GOOD_SETTINGS = ["--log-bin=binlog", "--server-id=1", "--sync-binlog=1", "--binlog-format=ROW"]


def doctor(dsn, *args):
    """(exit status, the report of the DSN's only server, its {check: finding})"""
    run = subprocess.run([LEAT, "doctor", "--json", "--db", dsn, *args], capture_output=True, text=True,
                         timeout=60 * SLOW)
    [report] = json.loads(run.stdout)["servers"]
    return run.returncode, report, {c["check"]: c for c in report["checks"]}


def verdicts(checks, wanted):
    return {name for name, c in checks.items() if c["verdict"] == wanted}


def server(directory, settings):
    """A private server with further settings, stopped at the end."""
    @contextlib.contextmanager
    def running():
        os.environ["EXTRA_ARGS"] = " ".join(settings)
        try:
            db = Database(str(directory))
        finally:
            del os.environ["EXTRA_ARGS"]
        yield db
        db.stop()
    return running()


def with_user(dsn, user, password):
    u = urllib.parse.urlsplit(dsn)
    return urllib.parse.urlunsplit(u._replace(netloc=f"{user}:{password}@{u.netloc.rpartition('@')[2]}"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    with server(tmp_path_factory.mktemp("doctor") / "db", GOOD_SETTINGS) as db:
        stack.leat("migrate", "--db", db.dsn)
        yield db


def test_all_is_well(good):
    status, report, checks = doctor(good.dsn)
    assert verdicts(checks, "problem") == verdicts(checks, "advice") == set(), report
    assert (status, report["verdict"]) == (0, "ok")
    assert good.dsn.split(":")[2].split("@")[0] not in json.dumps(report)  # the password
    with contextlib.closing(good.connect()) as c, c.cursor() as q:  # and leaves nothing behind
        q.execute("SELECT COUNT(*) FROM leat.writer")
        assert q.fetchone() == (0,)


def test_lines(good):
    run = subprocess.run([LEAT, "doctor", "--db", good.dsn, "--nodes", "60"], capture_output=True, text=True,
                         timeout=60 * SLOW)
    assert run.returncode == 1
    assert "ok       version" in run.stdout
    assert "advice   connections" in run.stdout
    assert "why: every node keeps" in run.stdout
    assert "change: SET GLOBAL max_connections=970" in run.stdout


@pytest.mark.skipif(stack.ENGINE == "galera", reason="a member does not start like that")
def test_everything_wrong(tmp_path):
    with server(tmp_path / "db", BAD_SETTINGS) as db:
        status, report, checks = doctor(db.dsn)
        assert (status, report["verdict"]) == (2, "problem")
        assert verdicts(checks, "problem") == {"durability", "binlog", "packet", "connections", "schema"}
        assert verdicts(checks, "advice") == {"memory", "redo", "statement_limit", "commit"}
        assert "innodb_flush_log_at_trx_commit=1" in checks["durability"]["change"]
        _, _, checks = doctor(db.dsn, "--accept-data-loss")
        assert checks["durability"]["verdict"] == "advice"


def test_read_only(good):
    with contextlib.closing(good.connect()) as c, c.cursor() as q:
        q.execute("SET GLOBAL read_only=ON")
        try:
            status, _, checks = doctor(good.dsn)
        finally:
            q.execute("SET GLOBAL read_only=OFF")
    assert status == 2
    assert verdicts(checks, "problem") == {"writable"}
    assert "read_only" in checks["commit"]["found"] or "read-only" in checks["commit"]["found"]


@pytest.mark.parametrize("grant, verdict, says", [
    ("SELECT, INSERT, UPDATE, DELETE ON leat.*", "ok", "leat migrate"),
    ("SELECT ON leat.*", "problem", "GRANT INSERT, UPDATE, DELETE ON `leat`.* TO 'some'@'%'"),
    ("ALL ON *.*", "advice", "GRANT ALL ON `leat`.*"),
])
def test_rights(good, grant, verdict, says):
    with contextlib.closing(good.connect()) as c, c.cursor() as q:
        q.execute("DROP USER IF EXISTS some@'%'")
        q.execute("CREATE USER some@'%' IDENTIFIED BY 'secret'")
        q.execute(f"GRANT {grant} TO some@'%'")
    _, _, checks = doctor(with_user(good.dsn, "some", "secret"))
    assert checks["rights"]["verdict"] == verdict
    assert says in checks["rights"]["found"] + checks["rights"].get("change", "")


def test_who_holds_locks(good):
    """Named with its thread, to who has PROCESS; who has not is told that it was not looked at."""
    with contextlib.closing(good.connect()) as c, c.cursor() as q:
        q.execute("DROP USER IF EXISTS seer@'%'")
        q.execute("CREATE USER seer@'%' IDENTIFIED BY 'secret'")
        q.execute("GRANT ALL ON leat.* TO seer@'%'")
        q.execute("GRANT PROCESS ON *.* TO seer@'%'")
        _, _, checks = doctor(with_user(good.dsn, "seer", "secret"))
        assert checks["locks"]["verdict"] == "ok" and "no transaction" in checks["locks"]["found"]
        with contextlib.closing(good.connect()) as holder, holder.cursor() as h:
            h.execute("BEGIN")
            h.execute("SELECT changes FROM leat.change_counter WHERE id=1 FOR UPDATE")
            time.sleep(6.5)
            _, _, checks = doctor(with_user(good.dsn, "seer", "secret"))
            found, thread = checks["locks"], holder.thread_id()
            assert found["verdict"] == "advice" and f"KILL {thread};" in found["change"]
            assert f"thread {thread} of " in found["found"] and "rows locked 1" in found["found"]
            assert 6 <= int(found["found"].split("open for ")[1].split()[0]) < 60
            _, _, checks = doctor(good.dsn)
            assert checks["locks"]["verdict"] == "ok" and "PROCESS" in checks["locks"]["found"]
            holder.rollback()


def test_no_answer(good):
    status, report, checks = doctor(with_user(good.dsn, "nobody", "secret"))
    assert (status, report["verdict"], checks) == (2, "problem", {})
    assert "1045" in report["error"]


def test_every_host(good):
    d = stack.parse_dsn(good.dsn)
    hosts = f"127.0.0.1:{d['port']},127.0.0.1:1"
    dsn = f"mysql://{d['user']}:{d['password']}@{hosts}/leat"
    run = subprocess.run([LEAT, "doctor", "--json", "--db", dsn], capture_output=True, text=True,
                         timeout=60 * SLOW)
    report = json.loads(run.stdout)
    assert run.returncode == 2
    assert report["verdict"] == "problem"
    assert [s["verdict"] for s in report["servers"]] == ["ok", "problem"]
    assert "2002" in report["servers"][1]["error"] or "2003" in report["servers"][1]["error"]
