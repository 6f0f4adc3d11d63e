"""Client certificates in place of tokens: who has a registered one is let in, with real clients too."""

import contextlib
import datetime
import hashlib
import json
import os
import ssl
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from leat import mqtt, pki, stack
from leat.stack import wait_for
from leat.token import acl
from test_admin_sql import SOON_S, Console

UNVERIFIED = (0x86, "no key known here verifies this token; check its iss, kid, alg and signature")
NO_TOKEN = (0x86, "there is no token: send a JWT as the password")


class Certificate:
    """One of an authority, in files, with the context of a client that shows it."""

    def __init__(self, node, authority, name="device", lives_s=3600):
        now = datetime.datetime.now(datetime.timezone.utc)
        key = pki.new_key("ES256")
        cert = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
                .issuer_name(authority.name).public_key(key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=1))
                .not_valid_after(now + datetime.timedelta(seconds=lives_s)).sign(authority.key, hashes.SHA256()))
        base = os.path.join(authority.dir, f"client-{cert.serial_number:x}")
        self.cert, self.key = base + ".crt", base + ".key"
        for path, data in ((self.cert, cert.public_bytes(serialization.Encoding.PEM)),
                           (self.key, pki.private_pem(key))):
            with open(path, "wb") as f:
                f.write(data)
        self.fingerprint = hashlib.sha256(cert.public_bytes(serialization.Encoding.DER)).hexdigest()
        self.tls = pki.client_context(node.ca)
        self.tls.load_cert_chain(self.cert, self.key)


def open_with(node, certificate, version=5):
    return mqtt.Client(node.address, certificate.tls, version, 10 * stack.SLOW)


def answer(node, certificate, token=None, client_id=""):
    with contextlib.closing(open_with(node, certificate)) as c:
        ack = c.connect(client_id, token, check=False)
        return ack.reason, ack.prop("reason_string")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return pki.Authority(str(tmp_path_factory.mktemp("client-ca")))


@pytest.fixture(scope="module")
def console(tmp_path_factory, database, authority):
    c = Console(database, str(tmp_path_factory.mktemp("certificates")))
    c.node = stack.Node(f"{c.dir}/node", c.node_dsn, extra=("--client-ca", authority.file))
    c.node.start()
    c.name_, c.signer = c.tenant()
    c.enter(c.signer).close()
    yield c
    c.node.end()


def register(console, certificate, subject="dev", rules=None, tenant=None):
    console.call("certificate_add", tenant or console.name_, certificate.fingerprint, subject,
                 json.dumps(acl() if rules is None else rules))


@pytest.fixture
def certificate(console, authority):
    """Registered, and let in."""
    c = Certificate(console.node, authority)
    register(console, c, rules=[{"permission": "allow", "action": "all", "topic": "${sub}/#"}])
    wait_for(lambda: answer(console.node, c) == (0, None), SOON_S, "a certificate that counts")
    return c


def enter(console, certificate):
    c = open_with(console.node, certificate)
    c.connect("", None)
    return c


def test_what_it_may_do(console, certificate):
    c = enter(console, certificate)
    c.subscribe("dev/#")
    assert c.subscribe("else", check=False).reasons == [0x87]
    c.publish("dev/1", b"x")
    assert c.receive().payload == b"x"
    row, = console.rows("SELECT * FROM certificates WHERE fingerprint=%s", certificate.fingerprint, by=console.read)
    assert (row["tenant"], row["subject"]) == (console.name_, "dev")
    assert console.audit("certificate_add")[:3] == (console.name_, certificate.fingerprint, None)


def test_a_real_client(console, certificate):
    """mosquitto_sub and _pub, by certificate and nothing else."""
    at = ["-V", "5", "-h", "localhost", "-p", str(console.node.address[1]), "--cafile", console.node.ca,
          "--cert", certificate.cert, "--key", certificate.key, "-q", "1", "-t", "dev/real"]
    sub = subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", *at, "-C", "1", "-W", "20", "-d"],
                           stdout=subprocess.PIPE, text=True)
    lines = iter(sub.stdout)
    assert any("received SUBACK" in line for line in lines)
    subprocess.run(["mosquitto_pub", *at, "-m", "by certificate"], check=True, timeout=20)
    assert any(line == "by certificate\n" for line in lines) and sub.wait(20) == 0


def test_our_own_client(console, certificate, tmp_path):
    """`leat pub` and `leat sub`: the key in a file of its own, or beside the certificate."""
    to = ["--url", console.node.url, "--ca", console.node.ca]
    both = tmp_path / "both.pem"
    with open(certificate.cert) as cert, open(certificate.key) as key:
        both.write_text(cert.read() + key.read())
    keys = [*to, "--cert", certificate.cert, "--cert-key", certificate.key]
    session = ["-t", "dev/own", "--session", "own", "--timeout", "1s"]
    stack.leat("sub", *keys, *session, "--count", 1, check=False)
    stack.leat("pub", *to, "--cert", both, "-t", "dev/own", "-m", "by certificate")
    assert stack.leat("sub", *keys, *session[:-1], "10s", "--count", 1).stdout == "by certificate\n"

    def fails(*args):
        done = stack.leat("pub", *args, "-t", "dev/own", "-m", "x", check=False)
        assert done.returncode
        return done.stderr
    assert "--cert-key goes with --cert" in fails(*to, "--cert-key", certificate.key)
    assert "--cert needs TLS" in fails("--url", "mqtt://localhost:1", "--cert", both)
    assert "key" in fails(*to, "--cert", certificate.cert)
    assert "acl" in stack.leat("pub", *to, "--cert", both, "-t", "else", "-m", "x", check=False).stderr


def test_who_is_refused(console, authority, certificate, tmp_path):
    """One that nobody registered is answered like a wrong token; one of another authority gets no connection."""
    other = Certificate(console.node, authority)
    assert answer(console.node, other) == UNVERIFIED
    assert "this client certificate is not registered" in console.node.text()
    with contextlib.closing(console.node.open()) as c:
        ack = c.connect("", None, check=False)
        assert (ack.reason, ack.prop("reason_string")) == NO_TOKEN, "neither"
    foreign = Certificate(console.node, pki.Authority(str(tmp_path)))
    register(console, foreign)
    late = Certificate(console.node, authority, lives_s=-30)
    register(console, late)
    last = Certificate(console.node, authority)
    register(console, last)
    wait_for(lambda: answer(console.node, last) == (0, None), SOON_S, "the certificates before it, too")
    for bad in (foreign, late):
        with pytest.raises((ssl.SSLError, OSError, mqtt.Closed)):
            answer(console.node, bad)


def test_a_token_comes_first(console, certificate):
    """Who sends one is who it says; a bad one is not made good by a certificate."""
    assert answer(console.node, certificate, console.signer.token())[0] == 0
    assert answer(console.node, certificate, "x.y.z")[0] == 0x86
    unsigned = console.signer.token().rsplit(".", 1)[0] + "."
    assert answer(console.node, certificate, unsigned) == UNVERIFIED


def test_what_ends_it(console, certificate, authority):
    def ended(c, reason, text, within_s=SOON_S):
        last = c.closed(timeout=within_s * stack.SLOW)[-1]
        assert (last.kind, last.reason, last.prop("reason_string")) == (mqtt.DISCONNECT, reason, text)
    short, other = (Certificate(console.node, authority, lives_s=s) for s in (5, 3600))
    register(console, short, "short")
    register(console, other, "other")
    wait_for(lambda: answer(console.node, short) == (0, None), SOON_S, "a certificate that counts")
    a, b, c, kept = (enter(console, x) for x in (short, certificate, other, other))
    console.call("certificate_remove", console.name_, certificate.fingerprint)
    ended(b, 0x87, "the client certificate is not registered any more")
    assert answer(console.node, certificate) == UNVERIFIED
    assert console.audit("certificate_remove")[2]["subject"] == "dev"
    kept.ping()
    ended(a, 0xA0, "the client certificate has expired: connect with a new one", 8)
    console.call("token_revoke_subject", console.name_, "other", None, None, None)
    ended(c, 0x87, "the certificate was revoked: get a new one")
    assert answer(console.node, other) == (0x87, "the certificate was revoked: get a new one")


def test_without_the_option_nobody_is_asked(sql_node, authority):
    """Off by default: a certificate is not even asked for."""
    assert answer(sql_node, Certificate(sql_node, authority)) == NO_TOKEN


GOOD = "a" * 64


def rules(*entries):
    return json.dumps([{"permission": "allow", "action": "all", **e} for e in entries])


def entry(text):
    return f'[{{"permission":"allow","action":"all",{text}}}]'


BAD_ACLS = [
    ("[1]", "acl entry 1: not an object"), ("[[]]", "acl entry 1: not an object"),
    (rules({"permission": "Allow", "topic": "a"}), 'entry 1: permission must be "allow" or "deny"'),
    (rules({"permission": None, "topic": "a"}), 'permission must be "allow" or "deny"'),
    (rules({"action": "pub", "topic": "a"}), 'action must be "publish", "subscribe" or "all"'),
    (rules({"topic": "a"}, {"topic": 7}), "acl entry 2: not a topic filter"),
    *[(rules({"topic": t}), "acl entry 1: not a topic filter") for t in (
        "", "a/#/b", "a+", "eq a", "${user}/a", "${", "$share/g/a", "$queue", "x" * 1025, "/" * 32)],
    *[(rules(r), "either topic or topics") for r in (
        {}, {"topic": "a", "topics": ["a"]}, {"topic": "a", "qos": 1}, {"TOPIC": "a"})],
    *[(rules({"topics": t}), "topics must be an array of at least one filter") for t in ([], "a", None)],
    (rules({"topics": ["a", 1]}), "not a topic filter"), (rules(*[{"topic": "a"}] * 257), "more than 256 filters"),
    (rules({"topics": ["a"] * 257}), "more than 256 filters"),
    (entry('"permission":"deny","topic":"a"'), "has a member twice"),
    (entry('"topic":"a","topic":"#"'), "has a member twice"),
    (entry('"topic":"a\\u0000"'), "a string that nodes do not read"), (entry('"topic":"a\\ud800"'), "acl"),
    (entry('"topic":"a\x01"'), "acl"), (entry('"topic":"a"') + " x", "an acl is a JSON array"),
]
GOOD_ACLS = [
    "[]", rules({"topic": "${sub}/${clientid}/#"}, {"permission": "deny", "action": "publish", "topic": "$leat/limits"}),
    rules({"action": "subscribe", "topics": ["a", "+/b/#", "#", "/", "$SYS/#", "a$"]}, {"topic": "ä𝄞/\u20ac"}),
    ' [ {"topic" : "a:b\\"c\\\\", "permission":"allow" ,\n "action": "all"} ] ', entry('"topic":"\\ud83d\\ude00/\\/"'),
    rules(*[{"topic": "a"}] * 256), rules(*[{"topic": "x" * 190}] * 250),
]


@pytest.mark.parametrize("args, says", [
    (("nobody", GOOD, "s", "[]"), "there is no tenant 'nobody'"),
    (("t-1", None, "s", "[]"), "64 hexadecimal digits, not NULL"),
    (("t-1", "a" * 63, "s", "[]"), "a fingerprint is the SHA-256"),
    (("t-1", "g" * 64, "s", "[]"), "a fingerprint is the SHA-256"),
    (("t-1", GOOD, "", "[]"), "a subject has 1 to 255 bytes"),
    (("t-1", GOOD, "s" * 256, "[]"), "this one has 256"),
    (("t-1", GOOD, "s", None), "an acl is a JSON array"),
    (("t-1", GOOD, "s", "{}"), "an acl is a JSON array"),
    (("t-1", GOOD, "s", "[" + " " * 65535 + "]"), "up to 65535 bytes"),
    (("t-1", GOOD, "s", "[oops"), "an acl is a JSON array"),
    *[(("t-1", GOOD, "s", text), says) for text, says in BAD_ACLS],
])
def test_refused(console, args, says):
    assert says in console.refused("certificate_add", *args)


@pytest.mark.parametrize("text", GOOD_ACLS)
def test_a_good_acl_counts(console, authority, text):
    """What SQL takes, a node takes."""
    c = Certificate(console.node, authority)
    console.call("certificate_add", console.name_, c.fingerprint, "dev", text)
    wait_for(lambda: answer(console.node, c) == (0, None), SOON_S, "a certificate that counts")


def test_fingerprints_are_found_however_they_are_written(console, authority):
    name, _ = console.tenant()
    c = Certificate(console.node, authority)
    text = ":".join(c.fingerprint[i:i + 2] for i in range(0, 64, 2)).upper()
    console.call("certificate_add", name, text, "s", "[]")
    assert "is there already" in console.refused("certificate_add", console.name_, c.fingerprint, "s", "[]")
    assert "has no such certificate" in console.refused("certificate_remove", console.name_, c.fingerprint)
    console.call("certificate_remove", name, c.fingerprint)
