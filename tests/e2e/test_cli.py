"""The command line: pipes, line mode, exit codes, error texts; tenants and tokens; leat dev."""

import base64
import json
import os
import re
import signal
import subprocess
import time

import pytest

from leat import stack
from leat.stack import LEAT, SLOW, leat, wait_for


@pytest.fixture
def to(memory_node, tmp_path):
    """--url, --ca and --token for the memory node."""
    path = tmp_path / "token"
    path.write_text(next(iter(memory_node.signers.values())).token() + "\n")
    return ["--url", memory_node.url, "--ca", memory_node.ca, "--token", str(path)]


@pytest.fixture
def start():
    """start(args…): a command running in the background, with text pipes."""
    running = []

    def make(*args, **kw):
        running.append(subprocess.Popen([LEAT, *map(str, args)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw))
        return running[-1]
    yield make
    for p in running:
        p.kill()
        p.communicate()


def finish(p, timeout=15):
    out, err = p.communicate(timeout=timeout * SLOW)
    return p.returncode, out, err


# ---- pub and sub ----------------------------------------------------------------------------------

def subscriber(start, to, topic, *args):
    """A durable `leat sub` whose session is there before it returns: nothing is missed."""
    session = ["--session", "s-" + topic.replace("/", "-")]
    first = leat("sub", *to, "-t", topic, *session, "--count", 1, "--timeout", "1s", check=False)
    assert first.returncode == 1 and first.stdout == ""
    return start("sub", *to, "-t", topic, *session, *args)


def test_message(start, to, topic):
    sub = subscriber(start, to, topic, "--count", 1)
    done = leat("pub", *to, "-t", topic, "-m", "hello")
    assert done.stdout == "" and done.stderr == ""
    assert finish(sub) == (0, "hello\n", "")


def test_lines(start, to, topic):
    lines = "".join(f"line {i}\n" for i in range(5000))
    sub = subscriber(start, to, topic, "--count", 5000)
    done = leat("pub", *to, "-t", topic, "-l", stdin=lines)
    assert done.stderr == "", "no progress when stderr is no terminal"
    code, out, _ = finish(sub, 30)
    assert (code, out) == (0, lines)


def test_last_line_without_newline_and_empty_lines(start, to, topic):
    sub = subscriber(start, to, topic, "--count", 3)
    leat("pub", *to, "-t", topic, "-l", stdin="a\n\nb")
    assert finish(sub)[:2] == (0, "a\n\nb\n")


def test_lines_are_published_as_they_come(start, to, topic):
    sub = subscriber(start, to, topic, "--count", 2)
    pub = start("pub", *to, "-t", topic, "-l")
    pub.stdin.write("first\n")
    pub.stdin.flush()
    assert sub.stdout.readline() == "first\n"
    pub.stdin.write("second\n")
    pub.stdin.close()
    assert sub.stdout.readline() == "second\n"
    assert pub.wait(10) == 0 and sub.wait(10) == 0
    pub.stdin = None


def test_file(start, to, topic, tmp_path):
    (tmp_path / "f").write_text("two\nlines")
    sub = subscriber(start, to, topic, "--count", 1)
    leat("pub", *to, "-t", topic, "-f", tmp_path / "f")
    assert finish(sub)[:2] == (0, "two\nlines\n")


def test_nothing_to_publish_is_fine(to, topic):
    assert leat("pub", *to, "-t", topic, "-l", stdin="").returncode == 0


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_versions(start, to, topic, version):
    sub = subscriber(start, to, topic, "--count", 1, "-v")
    leat("pub", *to, "--mqtt", version, "-t", topic, "-m", "x")
    assert finish(sub)[:2] == (0, f"{topic} x\n")


def test_sub_into_a_closed_pipe(start, to, topic):
    """leat sub | head -1"""
    sub = subscriber(start, to, topic)
    head = subprocess.Popen(["head", "-1"], stdin=sub.stdout, stdout=subprocess.PIPE, text=True)
    sub.stdout.close()
    leat("pub", *to, "-t", topic, "-l", stdin="1\n2\n3\n")
    assert head.communicate(timeout=10)[0] == "1\n"
    leat("pub", *to, "-t", topic, "-l", stdin="4\n5\n")
    sub.wait(10 * SLOW)
    sub.stdout = None


def test_sub_ends_on_sigint(start, to, topic):
    sub = subscriber(start, to, topic)
    time.sleep(0.5)
    sub.send_signal(signal.SIGINT)
    assert finish(sub)[0] in (0, 130)


def test_sub_timeout(to, topic):
    begin = time.monotonic()
    done = leat("sub", *to, "-t", topic, "--count", 1, "--timeout", "700ms", check=False)
    assert done.returncode == 1 and "0 of 1 events came in time" in done.stderr
    assert 0.6 < time.monotonic() - begin < 5


def test_sub_count_0(to, topic):
    """It once waited for ever, as if there were no --count."""
    done = leat("sub", *to, "-t", topic, "--count", "0", check=False, timeout=10)
    assert done.returncode == 2 and "--count" in done.stderr


def test_sub_share_name(to, topic):
    """It was taken for a shorter name and the beginning of the filter."""
    done = leat("sub", *to, "-t", topic, "--share", "a/b", check=False, timeout=10)
    assert done.returncode != 0 and "none of / + #" in done.stderr


def test_sub_works_on_a_queue_at_qos_1(to):
    done = leat("sub", *to, "--queue", "jobs", "-q", "0", check=False, timeout=10)
    assert done.returncode and "--queue needs --qos 1" in done.stderr


def test_sub_share(start, to, topic):
    two = [start("sub", *to, "-t", topic, "--share", "g") for _ in range(2)]
    time.sleep(0.7)
    leat("pub", *to, "-t", topic, "-l", stdin="".join(f"{i}\n" for i in range(100)))
    time.sleep(0.5)
    got = []
    for p in two:
        p.send_signal(signal.SIGINT)
        lines = finish(p)[1].split()
        assert lines
        got += lines
    assert sorted(got, key=int) == [str(i) for i in range(100)]


def test_sub_start(to, topic):
    leat("pub", *to, "-t", topic, "-l", stdin="1\n2\n")
    assert leat("sub", *to, "-t", topic, "--start", "earliest", "--count", 2).stdout == "1\n2\n"


def test_pub_key_orders(sql_node, tmp_path, topic, sql):
    (tmp_path / "t").write_text(sql_node.signers["alpha"].token())
    leat("pub", "--url", sql_node.url, "--ca", sql_node.ca, "--token", tmp_path / "t", "-t", topic, "-m", "x",
         "--key", "k-7", "--content-type", "text/plain", "--property", "a=1", "b=2")
    row, = sql("SELECT event_key, content_type, user_properties FROM event WHERE topic=%s", topic)
    assert row[0] == "k-7" and row[1] == "text/plain"
    assert '"a"' in row[2] and '"b"' in row[2]


# ---- what goes wrong ------------------------------------------------------------------------------

def failing(*args, code=1, **kw):
    done = leat(*args, check=False, **kw)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    return done.stderr


def test_unknown_command():
    assert "there is no command 'nonsense'" in failing("nonsense", code=2)


def test_no_command():
    assert leat(check=False).returncode == 2


def test_help():
    out = leat("help").stdout
    for name in ("node", "dev", "migrate", "tenant", "token", "pub", "sub"):
        assert f"leat {name} " in out
        assert "usage" in leat(name, "--help").stdout.lower()


def test_version():
    assert re.match(r"leat \S+", leat("--version").stdout)


@pytest.mark.parametrize("args,says", [
    (["-t", "a+b", "-m", "x"], "without + and #"),
    (["-m", "x"], "topic"),
    (["-t", "a"], "one of -m TEXT, -f FILE and -l"),
    (["-t", "a", "-m", "x", "-l"], "one of -m TEXT, -f FILE and -l"),
    (["-t", "a", "-m", "x", "-q", "3"], "3"),
    (["-t", "a", "-m", "x", "--nonsense"], "nonsense"),
    (["-t", "a", "-f", "/nonexistent"], "/nonexistent"),
    (["-t", "a", "-m", "x", "--property", "novalue"], "not KEY=VALUE"),
])
def test_pub_usage(to, args, says):
    done = leat("pub", *to, *args, check=False)
    assert done.returncode in (1, 2) and says in done.stderr, done.stderr


def test_connection_refused(to, topic):
    args = list(to)
    args[1] = f"mqtts://localhost:{stack.free_port()}"
    assert "refused" in failing("pub", *args, "-t", topic, "-m", "x").lower()


def test_wrong_ca(to, topic, tmp_path):
    from leat import pki
    args = list(to)
    args[3] = pki.Authority(str(tmp_path / "other")).file
    assert "certificate" in failing("pub", *args, "-t", topic, "-m", "x")


def test_bad_token(to, topic, tmp_path):
    (tmp_path / "bad").write_text("nonsense")
    args = list(to)
    args[5] = str(tmp_path / "bad")
    for command in (["pub", *args, "-t", topic, "-m", "x"], ["sub", *args, "-t", topic]):
        assert "not a JWT" in failing(*command)


def test_refused_publish(memory_node, to, topic, tmp_path):
    signer = next(iter(memory_node.signers.values()))
    (tmp_path / "narrow").write_text(signer.token(publish=["else"], subscribe=["else"]))
    args = list(to)
    args[5] = str(tmp_path / "narrow")
    said = failing("pub", *args, "-t", topic, "-m", "x")
    assert "event 1 was refused" in said and "acl" in said
    said = failing("sub", *args, "-t", topic)
    assert f"subscription to {topic} was refused" in said and "acl" in said


def test_too_large(to, topic):
    said = failing("pub", *to, "-t", topic, "-f", "-", stdin="x" * 2_000_000)
    assert "more than the server takes" in said


def test_pub_says_what_was_not_acknowledged(own_node, tmp_path, topic, start):
    n = own_node()
    (tmp_path / "t").write_text(n.signers["alpha"].token())
    pub = start("pub", "--url", n.url, "--ca", n.ca, "--token", tmp_path / "t", "-t", topic, "-l")
    pub.stdin.write("1\n2\n")
    pub.stdin.flush()
    wait_for(lambda: rows(n, topic) == 2, 10)
    n.stop()
    pub.stdin.write("3\n")
    try:
        pub.stdin.close()
    except BrokenPipeError:
        pass
    pub.stdin = None
    code, _, err = finish(pub)
    assert code == 1 and "leat pub:" in err


def rows(node, topic):
    with stack.connect(node.dsn) as c, c.cursor() as q:
        q.execute("SELECT COUNT(*) FROM event WHERE topic=%s", (topic,))
        return q.fetchone()[0]


def test_secrets_are_not_shown(tmp_path):
    """A wrong DSN's password appears in no message."""
    done = leat("migrate", "--db", f"mysql://u:hushhush@127.0.0.1:{stack.free_port()}/x", check=False)
    assert done.returncode != 0 and "hushhush" not in done.stderr + done.stdout
    assert "127.0.0.1" in done.stderr


@pytest.mark.parametrize("dsn", ["", "postgres://u@h/x", "mysql://", "mysql://u:p@h", "mysql://u:p@h:99999/x",
                                 "mysql://u:p@h/x?nonsense=1"])
def test_bad_dsn(dsn):
    done = leat("migrate", "--db", dsn, check=False)
    assert done.returncode != 0 and done.stderr


@pytest.mark.parametrize("args,says", [
    (["--memory"], "--mqtt"),
    (["--memory", "--mqtt", "127.0.0.1:0"], "--cert"),
    (["--mqtt", "127.0.0.1:0"], "--db"),
    (["--memory", "--db", "mysql://u@h/x", "--mqtt", "127.0.0.1:0"], "both"),
    (["--memory", "--insecure-mqtt", "0.0.0.0:0", "--insecure-tenant", "dev"], "loopback"),
    (["--memory", "--insecure-mqtt", "127.0.0.1:0"], "--insecure-tenant"),
    (["--memory", "--mqtt", "127.0.0.1:0", "--cert", "/nonexistent", "--key", "/nonexistent"], "/nonexistent"),
])
def test_node_usage(args, says):
    done = leat("node", *args, check=False)
    assert done.returncode not in (0, -6, -11) and says in done.stderr + done.stdout, done.stderr


def test_options_from_the_environment(to, topic):
    env = {"LEAT_URL": to[1], "LEAT_CA": to[3], "LEAT_TOKEN": to[5]}
    leat("pub", "-t", topic, "-m", "x", env=env)


def test_a_node_s_environment_is_not_a_client_s(start, to, topic):
    """LEAT_KEY, the node's private key file, once became the ordering key of every event published
    from the same shell, and was stored and delivered; LEAT_MQTT, its address, was no protocol version."""
    p = start("sub", *to, "-t", topic, "--count", "1", "-v", "--timeout", "10s")
    time.sleep(0.5)
    leat("pub", *to, "-t", topic, "-m", "x", env={"LEAT_KEY": "/etc/leat/server.key", "LEAT_MQTT": ":8883"})
    assert finish(p)[0] == 0


def test_environment_names_mean_one_thing():
    """… in all commands that serve or use the bus: what --help calls [LEAT_X] is one option."""
    meaning = {}
    for command in ["node", "pub", "sub", "bench"]:
        for line in leat(command, "--help").stdout.splitlines():
            found = re.match(r"  (?:-\w, )?--([\w-]+).*\[(LEAT_\w+)\]$", line)
            if found and found[2] in ("LEAT_KEY", "LEAT_MQTT"):
                assert meaning.setdefault(found[2], command) == command, line


# ---- tenants and tokens ---------------------------------------------------------------------------

@pytest.fixture
def schema(database):
    dsn = database.new_schema()
    leat("migrate", "--db", dsn)
    return dsn


def test_tenants(schema):
    db = ["--db", schema]
    leat("tenant", "create", "acme", *db)
    leat("tenant", "create", "beta", *db)
    listed = leat("tenant", "list", *db).stdout
    assert re.search(r"acme\s+\d+\s+active", listed) and re.search(r"beta\s+\d+\s+active", listed)
    assert "acme" in failing("tenant", "create", "acme", *db)
    leat("tenant", "suspend", "acme", *db)
    assert "suspended" in leat("tenant", "show", "acme", *db).stdout
    leat("tenant", "resume", "acme", *db)
    assert "active" in leat("tenant", "show", "acme", *db).stdout
    leat("tenant", "delete", "acme", *db)
    assert "acme" in failing("tenant", "create", "acme", *db), "a name is never used again"
    assert "nobody" in failing("tenant", "show", "nobody", *db)


def test_partitions(schema):
    db = ["--db", schema]
    leat("tenant", "create", "acme", *db)
    assert re.search(r"^ +0 open ", leat("tenant", "partitions", "acme", *db).stdout, re.M)
    said = leat("tenant", "partitions", "acme", "--partitions", 2, *db).stdout
    assert re.findall(r"^ +(\d) (\w+) ", said, re.M) == [("0", "sealed"), ("1", "open"), ("2", "open")]
    unchanged = leat("tenant", "partitions", "acme", *db, env={"LEAT_PARTITIONS": "5"}).stdout
    assert unchanged == said, "an environment changes nothing"
    assert "1" in leat("tenant", "partitions", "acme", "--partitions", 65, *db, check=False).stderr
    assert "there is no tenant nobody" in failing("tenant", "partitions", "nobody", *db)


def test_tokens_are_revoked(schema):
    def revoke(*args, **kw):
        return leat("tenant", "token-revoke", "acme", *args, "--db", schema, **kw).stdout

    def rows():
        with stack.connect(schema) as c, c.cursor() as q:
            q.execute("SELECT kind, name, issued_before, expires_at, reason FROM revocations ORDER BY kind")
            return [tuple(str(v) for v in row) for row in q.fetchall()]
    leat("tenant", "create", "acme", "--db", schema)
    assert "refused, and their connections end, within 2 s" in revoke("--subject", "ann", "--before",
                                                                      "2026-03-01T12:00:00Z", "--reason", "left")
    revoke("--id", "t-1", "--expires", "2099-01-31T00:00:00+01:00")
    revoke("--all")
    found = {r[0]: r[1:] for r in rows()}
    assert found["subject"] == ("ann", "2026-03-01 12:00:00", "None", "left")
    assert found["id"][0] == "t-1" and found["id"][2].startswith("2099-01-30 23:00:00") and "all" in found
    for which in (["--subject", "ann"], ["--id", "t-1"], ["--all"]):
        assert "are good again" in revoke(*which, "--undo")
    assert rows() == []


@pytest.mark.parametrize("args, says", [
    ([], "give one of --subject SUBJECT, --id ID and --all"),
    (["--subject", "a", "--all"], "give one of"),
    (["--id", "a", "--before", "2026-03-01T12:00:00Z"], "--id is one token, whenever it was issued"),
    (["--all", "--before", "yesterday"], "--before is a time like 2026-03-01T12:00:00Z, not yesterday"),
    (["--all", "--expires", "2020-03-01T12:00:00Z"], "expires: in the future"),
    (["--all", "--undo", "--reason", "x"], "--undo takes back all of it"),
    (["--all", "--undo"], "tenant acme has no such revocation"),
    (["--subject", ""], "a subject has 1 to 255 bytes"),
])
def test_what_is_not_revoked(schema, args, says):
    leat("tenant", "create", "acme", "--db", schema)
    assert says in failing("tenant", "token-revoke", "acme", *args, "--db", schema)


@pytest.mark.parametrize("name", ["", "a b", "UPPER/slash", "x" * 65, "a\nb", "'; DROP TABLE tenant; --", "ü"])
def test_bad_tenant_names(schema, name):
    done = leat("tenant", "create", name, "--db", schema, check=False)
    assert done.returncode != 0 and done.stderr
    assert leat("tenant", "list", "--db", schema).stdout.count("\n") == 1


def test_keys(schema, tmp_path):
    from leat import pki
    leat("tenant", "create", "acme", "--db", schema)

    def add(kid, alg, data, code=0):
        (tmp_path / "k").write_bytes(data)
        done = leat("tenant", "key-add", "acme", "--kid", kid, "--alg", alg, "--key", tmp_path / "k",
                    "--db", schema, check=False)
        assert (done.returncode == 0) == (code == 0), done.stderr
        return done.stderr
    es, rs = pki.new_key("ES256"), pki.new_key("RS256")
    add("k1", "ES256", pki.public_pem(es))
    add("k2", "RS256", pki.public_pem(rs))
    assert add("k1", "ES256", pki.public_pem(es), 1), "the kid is taken"
    assert add("k3", "RS256", pki.public_pem(es), 1), "not an RSA key"
    assert add("k4", "HS256", b"short", 1), "too short a secret"
    assert add("k5", "HS256", pki.public_pem(rs), 1) or True
    assert add("k6", "none", b"", 1)
    assert add("k k", "ES256", pki.public_pem(es), 1)
    assert add("k7", "ES256", b"", 1)


def test_token_refuses_what_no_node_would_take(tmp_path):
    from leat import pki
    key = pki.new_key("ES256")
    (tmp_path / "k").write_bytes(pki.private_pem(key))
    base = ["token", "--key", tmp_path / "k", "--kid", "k", "--issuer", "i"]
    assert leat(*base, "--subject", "s").stdout.count(".") == 2
    failing(*base, "--subject", "")
    failing(*base, "--subject", "s", "--publish", "a/#/b")
    token = leat(*base, "--subject", "s", "--limits", "connections=2", "event_bytes=4096").stdout
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["limits"] == {"connections": 2, "event_bytes": 4096}
    for bad in ("connections", "connections=", "connections=0", "connections=-1", "connections=1.5",
                "connections=99999999999999999999"):
        assert "NAME=N with a whole number from 1 on" in failing(*base, "--subject", "s", "--limits", bad), bad
    assert "there is no limit" in failing(*base, "--subject", "s", "--limits", "bytes=1")
    assert "is there twice" in failing(*base, "--subject", "s", "--limits", "connections=1", "connections=2")
    assert leat(*base, "--subject", "s", "--ttl", "0s", check=False).returncode != 0
    (tmp_path / "k").write_bytes(pki.public_pem(key))
    failing(*base, "--subject", "s")


def test_migrate_at_once(database):
    """Several at the same time: all succeed."""
    dsn = database.new_schema()
    running = [subprocess.Popen([LEAT, "migrate", "--db", dsn], stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE) for _ in range(4)]
    for p in running:
        _, err = p.communicate(timeout=60)
        assert p.returncode == 0, err


def test_dev(start, tmp_path, topic):
    """One command; the lines it prints work as they are."""
    port, admin = stack.free_port(), stack.free_port()
    dev = start("dev", "--dir", tmp_path / "dev", "--mqtt-port", port, "--admin-port", admin)
    printed = []
    for line in dev.stdout:
        printed.append(line.rstrip("\n"))
        if line.startswith("curl") and "metrics" in line:
            break
    pub = next(x for x in printed if x.startswith("leat pub"))
    path = {**os.environ, "PATH": os.path.dirname(LEAT) + ":" + os.environ["PATH"]}
    sub_line = next(x for x in printed if x.startswith("leat sub"))
    sub = subprocess.Popen(sub_line + " --start earliest --count 1", shell=True, stdout=subprocess.PIPE, text=True,
                           env=path)
    subprocess.run(pub, shell=True, check=True, env=path, timeout=20)
    assert sub.communicate(timeout=20)[0] == "hello\n"
    for line in (x for x in printed if x.startswith("curl")):
        subprocess.run(line.replace("curl", "curl -fsS"), shell=True, check=True, stdout=subprocess.DEVNULL,
                       timeout=20)
    dev.send_signal(signal.SIGTERM)
    assert dev.wait(10 * SLOW) == 0
    for private in ("ca.key", "server.key", "dev.key", "token"):
        assert (os.stat(tmp_path / "dev" / private).st_mode & 0o077) == 0, private
