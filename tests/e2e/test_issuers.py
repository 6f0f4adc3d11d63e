"""Identity providers: an HTTPS server with a JWKS, tokens that it might have signed, and those it did not."""

import contextlib
import http.server
import json
import pathlib
import shutil
import signal
import ssl
import threading

import pymysql
import pytest

from leat import mqtt, pki, stack
from leat.stack import wait_for
from leat.token import Signer, raw
from test_admin_sql import SOON_S, Console

AUDIENCE = "https://events.example"
UNVERIFIED = (0x86, "no key known here verifies this token; check its iss, kid, alg and signature")
FOLLOW_S = 3 + SOON_S  # asked for, fetched, stored, followed


class Provider:
    """An HTTPS server on loopback; pages: {path: (status, body bytes, or a function that answers)}."""

    def __init__(self, directory, authority):
        cert, key = f"{directory}/idp.crt", f"{directory}/idp.key"
        authority.issue(cert, key)
        self.authority = authority
        self.pages, self.asked = {}, []
        self.hanging, self.go_on = [], threading.Event()
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked.append(self.path)
                status, body = provider.pages.get(self.path, (404, b"no"))
                if status is None:
                    with contextlib.suppress(OSError):
                        body(self)
                    return
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", body.decode())
                    body = b""
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hang(self, handler):
        """No answer, until all who hang are let go."""
        self.hanging.append(handler.path)
        self.go_on.wait(30)

    def url(self, path):
        return f"https://localhost:{self.port}{path}"

    def serve(self, path, *keys, **members):
        self.pages[path] = 200, json.dumps({"keys": list(keys), **members}).encode()


@pytest.fixture(scope="module")
def idp(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("idp"))
    authority = pki.Authority(directory)
    p = Provider(directory, authority)
    yield p
    p.server.shutdown()


@pytest.fixture(scope="module")
def console(tmp_path_factory, database, idp):
    c = Console(database, str(tmp_path_factory.mktemp("issuers")))
    c.issuer_ca = f"{c.dir}/issuer-ca.pem"
    shutil.copy(idp.authority.file, c.issuer_ca)
    c.node = stack.Node(f"{c.dir}/node", c.node_dsn, extra=("--issuer-ca", c.issuer_ca))
    c.node.start()
    yield c
    c.node.end()


class Issuer:
    """A row of its own, with a page of its own and one key."""

    def __init__(self, console, idp, tenant_claim="org", tenant=None, subject=None, permissions=None,
                 algs=("ES256",), page=None):
        self.console, self.idp, self.alg = console, idp, algs[0]
        self.name = f"https://{console.name('idp')}.example"
        self.path = f"/{console.name('jwks')}"
        self.keys = {}
        self.kid = [self.new_key(alg) for alg in algs][0]
        if page:
            idp.pages[self.path] = page
        console.call("issuer_add", self.name, idp.url(self.path), AUDIENCE, tenant_claim, tenant, subject,
                     permissions)

    def new_key(self, alg=None):
        kid = self.console.name("k+/=:.~")  # as base64, URLs and names have them
        self.keys[kid] = alg or self.alg, pki.new_key(alg or self.alg)
        self.serve()
        return kid

    def serve(self, *more):
        self.idp.serve(self.path, *(pki.jwk(k, kid=kid, use="sig", alg=alg) for kid, (alg, k) in
                                    self.keys.items()), *more)

    def token(self, tenant, kid=None, header=None, **claims):
        alg, key = self.keys[kid or self.kid]
        s = Signer(None, self.name, kid or self.kid, alg, key)
        return raw(s.header(**(header or {})), s.claims(**{"aud": AUDIENCE, "org": tenant, **claims}), alg, key)

    def row(self):
        row, = self.console.rows("SELECT * FROM issuers WHERE issuer=%s", self.name, by=self.console.read)
        return row

    def fetches(self):
        return self.console.rows("SELECT fetches AS n FROM issuer WHERE issuer=%s", self.name)[0]["n"]


def fetch(*issuers):
    """Have them fetched now; their rows afterwards."""
    before = [i.fetches() for i in issuers]
    for i in issuers:
        i.console.run(i.console.root, f"UPDATE issuer SET tried_at=NULL WHERE issuer='{i.name}'")
    wait_for(lambda: all(i.fetches() > n for i, n in zip(issuers, before)), FOLLOW_S, "a fetch of each")
    return [i.row() for i in issuers]


def answer(console, token):
    with contextlib.closing(console.node.open()) as c:
        ack = c.connect("", token, check=False)
        return ack.reason, ack.prop("reason_string")


def enter(console, token):
    """A connection, as soon as the token is good."""
    wait_for(lambda: answer(console, token)[0] == 0, FOLLOW_S, "a token that is good")
    c = console.node.open()
    c.connect("", token)
    return c


@pytest.fixture(scope="module")
def tenants(console):
    return [console.tenant()[0] for _ in range(2)]


@pytest.fixture(scope="module")
def issuer(console, idp, tenants):
    """One that most tests share, with a key for each algorithm; they leave it as it was."""
    i = Issuer(console, idp, algs=("ES256", "RS256", "PS256", "EdDSA"))
    enter(console, i.token(tenants[0])).close()
    return i


# ---- the good ones --------------------------------------------------------------------------------

def test_the_claim_names_the_tenant(console, issuer, tenants):
    a, b, = (enter(console, issuer.token(t)) for t in tenants)
    for kid in issuer.keys:
        assert answer(console, issuer.token(tenants[0], kid)) == (0, None)
    a.subscribe("t")
    b.publish("t", b"of b")
    a.publish("t", b"of a")
    assert a.receive().payload == b"of a" and a.silent()
    row = issuer.row()
    assert (row["state"], row["tenant_claim"], row["tenant"], row["last_error"]) == ("active", "org", None, "")
    assert json.loads(row["kids"]) == list(issuer.keys) and row["fetched_at"]
    tenant, target, before, after = console.audit("issuer_add")
    assert (tenant, target, before, after["audience"]) == (None, issuer.name, None, AUDIENCE)


@pytest.fixture(scope="module")
def own(console, tenants):
    """A key of the first tenant's own."""
    signer = console.key(tenants[0])
    console.enter(signer).close()
    return signer


def test_a_fixed_tenant_another_subject_and_scopes(console, idp, tenants):
    """As of Entra: the client is in appid, what it may do in roles; its acl and org claims are not asked."""
    i = Issuer(console, idp, tenant_claim=None, tenant=tenants[1], subject="appid", permissions="roles")
    claims = {"sub": None, "appid": "app-1", "roles": ["Reader", "leat.publish:in/${sub}"],
              "acl": [{"permission": "allow", "action": "all", "topic": "#"}]}
    c = enter(console, i.token(tenants[0], **claims))
    assert c.publish("in/app-1", check=False).reason in (0, 0x10)
    assert c.publish("in/else", check=False).reason == 0x87
    assert c.subscribe("#", check=False).reasons == [0x87]
    console.call("token_revoke_subject", tenants[1], "app-1", None, None, None)
    assert c.closed(timeout=SOON_S * stack.SLOW)[-1].reason == 0x87, "it is tenant 1's, by its subject"
    assert answer(console, i.token(tenants[0], **{**claims, "roles": "leat.read:x"}))[1].startswith("scope leat.")


# ---- the bad ones ---------------------------------------------------------------------------------

def test_what_a_token_must_say(console, issuer, tenants):
    for claims, reason, text in (
            ({"aud": "leat"}, 0x87, f'claim aud must contain "{AUDIENCE}"'),
            ({"exp": 1}, 0x87, "token expired at 1970-01-01T00:00:01Z"),
            ({"sub": None}, 0x87, "claim sub must be a string")):
        got = answer(console, issuer.token(tenants[0], **claims))
        assert got[0] == reason and got[1].startswith(text), got
    # who names a tenant that is not there learns no more than who has no key; the operator does
    wait_for(lambda: answer(console, issuer.token("nobody")) == UNVERIFIED and
             "names no tenant that there is" in console.node.text(), what="a line that is not dropped")
    for tenant in ("nobody", "", None, 7, [tenants[0]], tenants[0].upper(), tenants[0] + " "):
        assert answer(console, issuer.token(tenant)) == UNVERIFIED, tenant


@pytest.fixture(scope="module")
def forged(issuer, own, tenants):
    """{what: token}: each must be refused as unproven."""
    tenant = tenants[0]
    key = issuer.keys[issuer.kid][1]
    s = Signer(None, issuer.name, issuer.kid, issuer.alg, key)
    good = s.claims(aud=AUDIENCE, org=tenant)
    public = pki.public_pem(key)
    return {
        "unsigned": raw(s.header(alg="none"), good, "none", b""),
        "HS256 with the public key": raw(s.header(alg="HS256"), good, "HS256", public),
        "HS256 with the JWK": raw(s.header(alg="HS256"), good, "HS256", json.dumps(pki.jwk(key)).encode()),
        "another algorithm": raw(s.header(alg="RS256"), good, "RS256", pki.new_key("RS256")),
        "another key": raw(s.header(), good, "ES256", pki.new_key("ES256")),
        "jku": raw(s.header(jku="https://evil.test/"), good, "ES256", key),
        "a tenant's kid": raw(s.header(kid=own.kid), good, "ES256", own.key),
        "a tenant's issuer, this kid": raw(s.header(), {**good, "iss": own.issuer}, "ES256", key),
        "kid unknown": raw(s.header(kid="nobody-knows"), good, "ES256", key),
    }


@pytest.mark.parametrize("what", ["unsigned", "HS256 with the public key", "HS256 with the JWK", "another algorithm",
                                  "another key", "jku", "a tenant's kid", "a tenant's issuer, this kid",
                                  "kid unknown"])
def test_forged(console, forged, what):
    reason, text = answer(console, forged[what])
    assert reason == 0x86 and (what in ("unsigned", "jku") or text == UNVERIFIED[1]), text


def test_a_tenants_own_issuer_never_speaks_for_another(console, issuer, own, tenants):
    """Its token may name whomever it likes: it is the key's tenant's."""
    with contextlib.closing(console.node.open()) as c:
        c.connect("", own.token(org=tenants[1], tenant=tenants[1]))
        other = enter(console, issuer.token(tenants[1]))
        other.subscribe("#")
        c.publish("x")
        assert other.silent()


# ---- keys come and go -----------------------------------------------------------------------------

def test_an_unknown_kid_has_the_keys_fetched(console, idp, tenants):
    """Once, however many such tokens come; and the connections of keys that stay live on."""
    i = Issuer(console, idp)
    c = enter(console, i.token(tenants[0]))
    new = i.new_key()
    assert answer(console, i.token(tenants[0], new)) == UNVERIFIED
    asked = idp.asked.count(i.path)
    console.run(console.root, "UPDATE issuer SET tried_at=UTC_TIMESTAMP(3)-INTERVAL 31 SECOND"
                f" WHERE issuer='{i.name}'")
    for n in range(50):
        assert answer(console, i.token(tenants[0], header={"kid": f"made-up-{n}"})) == UNVERIFIED
    enter(console, i.token(tenants[0], new)).close()
    assert idp.asked.count(i.path) == asked + 1
    c.ping()
    # what was removed is retired: its connections end, the others' do not
    d = enter(console, i.token(tenants[0], new))
    del i.keys[i.kid]
    i.serve()
    fetch(i)
    last = c.closed(timeout=SOON_S * stack.SLOW)[-1]
    assert (last.kind, last.reason) == (mqtt.DISCONNECT, 0x87)
    d.ping()


def endless(start, more):
    """An answer that begins so and never ends."""
    def answer_(handler):
        handler.wfile.write(start)
        while True:
            handler.wfile.write(more)
    return None, answer_


BAD_PAGES = {  # more of what is no JWKS is in the unit test
    "a web page": (200, b"<html>maintenance</html>", "it is not JSON, at byte 1"),
    "too large": (200, b'{"keys":[]}' + b" " * 262144, "the answer has more than 262144 bytes"),
    "a flood": (*endless(b"HTTP/1.0 200 OK\r\n\r\n", b" " * 65536), "the answer has more than 262144 bytes"),
    "a flood of headers": (*endless(b"HTTP/1.0 200 OK\r\n", b"a: %s\r\n" % (b"b" * 1000)),
                           "the answer has more than 65536 bytes of headers"),
    "half of it": (200, b'{"keys":[{"kty":"EC","kid":"', "it is not JSON"),
    "a redirect": (302, b"https://localhost/", "HTTP status 302: redirects are not followed"),
}


def test_the_last_good_keys_are_kept(console, idp, tenants):
    i, *others = (Issuer(console, idp) for _ in range(1 + len(BAD_PAGES)))
    held = [enter(console, o.token(tenants[0])) for o in others]
    for o, (status, body, _) in zip(others, BAD_PAGES.values()):
        idp.pages[o.path] = status, body
    for o, c, row, (what, (_, _, error)) in zip(others, held, fetch(*others), BAD_PAGES.items()):
        assert error in row["last_error"], (what, row["last_error"])
        assert json.loads(row["kids"]) == [o.kid], what
        c.ping()
        enter(console, o.token(tenants[0])).close()
    c = enter(console, i.token(tenants[0]))
    private = {**pki.jwk(i.keys[i.kid][1]), "d": "AA", "kid": "private"}
    i.serve(private, {"kty": "oct", "kid": "oct", "k": "A" * 43}, {**pki.jwk(i.keys[i.kid][1]), "kid": i.kid})
    row, = fetch(i)
    assert row["last_error"] == ("key 2 was left out: this is a private key (it has a member d): keep it, and give "
                                 "its public half")
    c.ping()
    enter(console, i.token(tenants[0])).close()
    assert answer(console, i.token(tenants[0], header={"kid": "private"})) == UNVERIFIED
    assert answer(console, raw({"alg": "HS256", "kid": "oct"}, Signer(None, i.name, "oct", "HS256", b"").claims(
        aud=AUDIENCE, org=tenants[0]), "HS256", b"\0" * 32)) == UNVERIFIED


def test_who_hangs_holds_up_nobody_else(console, idp, tenants):
    """Of one tenant's issuers four are fetched at a time, and the others' beside them."""
    hung = [Issuer(console, idp, tenant_claim=None, tenant=tenants[0], page=(None, idp.hang)) for _ in range(6)]
    wait_for(lambda: len(idp.hanging) == 4, FOLLOW_S, "four that hang")
    for tenant, claim in ((tenants[1], None), (None, "org")):
        i = Issuer(console, idp, tenant_claim=claim, tenant=tenant)
        enter(console, i.token(tenants[1])).close()
    assert len(idp.hanging) == 4 and not any(i.fetches() for i in hung)
    idp.go_on.set()
    wait_for(lambda: all(i.fetches() for i in hung), 2 * FOLLOW_S, "their turn")
    assert sorted(idp.hanging) == sorted(i.path for i in hung)
    assert all(i.row()["last_error"] for i in hung)


def test_who_fails_is_asked_ever_more_seldom(console, idp, tenants):
    """Also when somebody sends tokens with kids that it does not know."""
    every = [Issuer(console, idp, page=(500, b"")) for _ in range(5)]
    wait_for(lambda: all(i.fetches() for i in every), FOLLOW_S, "an attempt")
    before = [i.fetches() for i in every]
    for i, failures, ago in zip(every, (1, 3, 3, 99, 99), (10, 100, 121, 280, 301)):
        console.run(console.root, f"UPDATE issuer SET failures={failures},wanted=wanted+1,tried_at="
                    f"UTC_TIMESTAMP(3)-INTERVAL {ago} SECOND WHERE issuer='{i.name}'")
    wait_for(lambda: [i.fetches() for i in every][2::2] == [n + 1 for n in before[2::2]], FOLLOW_S, "a retry")
    assert [i.fetches() for i in every] == [n + (k in (2, 4)) for k, n in enumerate(before)]


def test_only_a_good_certificate_will_do(console, idp, tenants, tmp_path):
    """Of another authority; and a good one under another name."""
    other = Provider(str(tmp_path), pki.Authority(str(tmp_path / "ca")))
    issuers = [Issuer(console, idp) for _ in range(2)]
    for i, url in zip(issuers, (other.url("/"), f"https://127.0.0.2:{idp.port}{issuers[1].path}")):
        enter(console, i.token(tenants[0])).close()
        console.call("issuer_set", i.name, "jwks_url", url)
    for i in issuers:
        wait_for(lambda i=i: i.row()["last_error"], FOLLOW_S, "an error")
        assert "SSL" in i.row()["last_error"]
        assert answer(console, i.token(tenants[0]))[0] == 0, "the last good ones"
    assert other.asked == []
    other.server.shutdown()


def test_authorities_are_read_again_at_sighup(console, idp, tenants, tmp_path):
    """A file that is none changes nothing."""
    other = Provider(str(tmp_path), pki.Authority(str(tmp_path / "ca"), "Leat test CA of another"))
    i = Issuer(console, other)

    def authorities(*texts, says):
        before = console.node.text().count(says)
        pathlib.Path(console.issuer_ca).write_text("".join(texts))
        console.node.signal(signal.SIGHUP)
        wait_for(lambda: console.node.text().count(says) > before, what="a line in the log")
        return fetch(i)[0]["last_error"]

    known, new = (pathlib.Path(p.authority.file).read_text() for p in (idp, other))
    wait_for(lambda: "SSL" in i.row()["last_error"], FOLLOW_S, "an error")
    assert authorities(known, new, says="certificates=2 --issuer-ca reloaded") == ""
    enter(console, i.token(tenants[0])).close()
    assert authorities(known[:100], says="--issuer-ca not reloaded, the old ones stay: no PEM certificates") == ""
    assert "SSL" in authorities(known, says="certificates=1 --issuer-ca reloaded")
    other.server.shutdown()


def test_a_late_answer_of_a_page_that_was_withdrawn(console, idp, tenants):
    """Retired and added anew with another page while the old one is asked: its keys are nobody's."""
    asked, go_on = threading.Event(), threading.Event()
    i = Issuer(console, idp, page=(404, b"not yet"))
    wrong = json.dumps({"keys": [pki.jwk(pki.new_key("ES256"), kid="wrong", use="sig", alg="ES256")]}).encode()

    def late(handler):
        asked.set()
        go_on.wait(30)
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + wrong)

    idp.pages[i.path + "/wrong"] = None, late
    console.call("issuer_retire", i.name)
    console.call("issuer_add", i.name, idp.url(i.path + "/wrong"), AUDIENCE, "org", None, None, None)
    assert asked.wait(FOLLOW_S * stack.SLOW)
    console.call("issuer_retire", i.name)
    i.serve()
    console.call("issuer_add", i.name, idp.url(i.path), AUDIENCE, "org", None, None, None)
    go_on.set()
    wait_for(lambda: i.row()["kids"] and json.loads(i.row()["kids"]), FOLLOW_S, "keys")
    assert json.loads(i.row()["kids"]) == [i.kid]
    assert f'issuer="{i.name}" not stored' in console.node.text()


# ---- settings -------------------------------------------------------------------------------------

def test_changing_what_a_token_means_ends_connections(console, idp, tenants):
    i = Issuer(console, idp)
    c = enter(console, i.token(tenants[0]))
    console.call("issuer_set", i.name, "tenant_claim", "company")
    assert c.closed(timeout=SOON_S * stack.SLOW)[-1].reason == 0x87
    assert console.audit("issuer_set")[0] is None and console.audit("issuer_set")[2]["tenant_claim"] == "org"
    assert answer(console, i.token(tenants[0])) == UNVERIFIED
    console.call("issuer_set", i.name, "tenant", tenants[1])
    assert i.row()["tenant"] == tenants[1] and i.row()["tenant_claim"] is None
    console.call("issuer_set", i.name, "tenant", tenants[0])
    rows = console.rows("SELECT tenant FROM audit_log WHERE action='issuer_set' ORDER BY audit_id DESC LIMIT 2")
    assert sorted(r["tenant"] for r in rows) == sorted(tenants), "it concerns both"
    console.call("issuer_set", i.name, "tenant", tenants[1])
    c = enter(console, i.token(tenants[0]))
    console.call("issuer_retire", i.name)
    assert console.audit("issuer_retire")[0] == tenants[1]
    assert c.closed(timeout=SOON_S * stack.SLOW)[-1].reason == 0x87
    assert answer(console, i.token(tenants[0])) == UNVERIFIED
    assert "there is no such issuer" in console.refused("issuer_retire", i.name)
    console.call("issuer_add", i.name, idp.url(i.path), AUDIENCE, "org", None, None, None)
    enter(console, i.token(tenants[0])).close()


def test_an_issuer_is_a_tenants_or_the_operators(console, issuer, own, tenants, idp):
    """Neither can take the other's; and where a hand did it, the tenant's own keys count."""
    assert "has or had keys of its own" in console.refused(
        "issuer_add", own.issuer, idp.url("/x"), AUDIENCE, "org", None, None, None)
    assert "this issuer is an identity provider" in console.refused(
        "key_add", tenants[0], issuer.name, "k", "ES256", pki.public_pem(own.key))
    assert "is there already" in console.refused(
        "issuer_add", issuer.name, idp.url("/x"), AUDIENCE, "org", None, None, None)
    i = Issuer(console, idp)
    c = enter(console, i.token(tenants[1]))
    console.run(console.root, "INSERT INTO tenant_key(issuer,kid,tenant_id,alg,key_material) SELECT"
                f" '{i.name}','mine',tenant_id,'HS256',REPEAT('s',32) FROM tenant WHERE name='{tenants[0]}'")
    console.run(console.root, "UPDATE change_counter SET changes=changes+1 WHERE id=1")
    mine = Signer(tenants[0], i.name, "mine", "HS256", b"s" * 32)
    console.enter(mine).close()
    assert answer(console, i.token(tenants[1])) == UNVERIFIED
    c.close()


@pytest.mark.parametrize("args, says", [
    ((None, "https://h/j", "a", "c", None, None, None), "issuer has 1 to 255 bytes; this one has 0"),
    (("i" * 256, "https://h/j", "a", "c", None, None, None), "this one has 256"),
    (("i", "http://h/j", "a", "c", None, None, None), "jwks_url is https://HOST"),
    (("i", "https://u:p@h/j", "a", "c", None, None, None), "without a user"),
    (("i", "https://h", "a", "c", None, None, None), "jwks_url is https://HOST"),
    (("i", "https://h/j#x", "a", "c", None, None, None), "or a fragment"),
    (("i", "https://h/j\r\nx: y", "a", "c", None, None, None), "jwks_url is https://HOST"),
    (("i", "file:///etc/passwd", "a", "c", None, None, None), "jwks_url is https://HOST"),
    (("i", "https://h/" + "j" * 1024, "a", "c", None, None, None), "jwks_url has 1 to 1024"),
    (("i", "https://h/j", None, "c", None, None, None), "audience has 1 to 255 bytes"),
    (("i", "https://h/j", "a", None, None, None, None), "give tenant_claim"),
    (("i", "https://h/j", "a", "c", "t", None, None), "not both"),
    (("i", "https://h/j", "a", "", None, None, None), "tenant_claim has 1 to 255"),
    (("i", "https://h/j", "a", None, "nobody", None, None), "there is no tenant 'nobody'"),
    (("i", "https://h/j", "a", "c", None, "", None), "subject_claim has 1 to 255"),
    (("i", "https://h/j", "a", "c", None, None, "x" * 256), "permissions has 1 to 255"),
])
def test_refused(console, args, says):
    assert says in console.refused("issuer_add", *args)


def test_settings_refused(console, issuer):
    assert "settings are jwks_url" in console.refused("issuer_set", issuer.name, "state", "1")
    assert "there is no such issuer" in console.refused("issuer_set", "else", "audience", "x")
    assert "jwks_url is https" in console.refused("issuer_set", issuer.name, "jwks_url", "http://x/")
    assert "there is no tenant" in console.refused("issuer_set", issuer.name, "tenant", "nobody")
    with pytest.raises(pymysql.Error), contextlib.closing(stack.connect(console.node_dsn)) as c:
        Console.run(c, f"UPDATE issuer SET tenant_claim='x' WHERE issuer='{issuer.name}'")
