"""Tokens, honest and hostile: JWS is put together by hand here, so that a test can say exactly what
stands in a header or a claim, duplicates and malformed JSON included."""

import base64
import hashlib
import hmac
import json
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

AUDIENCE = "leat"


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(alg, key, data):
    """The signature of `data`; key: bytes for HS*, else a private key; b"" for none."""
    bits = alg[2:]
    if alg.startswith("HS"):
        return hmac.new(key, data, getattr(hashlib, "sha" + bits)).digest()
    if alg.startswith("RS"):
        return key.sign(data, padding.PKCS1v15(), getattr(hashes, "SHA" + bits)())
    if alg.startswith("PS"):
        h = getattr(hashes, "SHA" + bits)()
        return key.sign(data, padding.PSS(padding.MGF1(h), h.digest_size), h)
    if alg.startswith("ES"):
        size = {"256": 32, "384": 48, "512": 66}[bits]
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(getattr(hashes, "SHA" + bits)())))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if alg == "EdDSA":
        return key.sign(data)
    return b""


def raw(header, claims, alg, key):
    """A token of a header and claims given as dict, text or bytes, signed with alg and key."""
    parts = []
    for part in (header, claims):
        if isinstance(part, dict):
            part = json.dumps(part)
        parts.append(b64(part if isinstance(part, bytes) else part.encode()))
    data = b".".join(parts)
    return (data + b"." + b64(sign(alg, key, data))).decode()


def acl(publish=("#",), subscribe=("#",)):
    return ([{"permission": "allow", "action": "publish", "topic": t} for t in publish] +
            [{"permission": "allow", "action": "subscribe", "topic": t} for t in subscribe])


class Signer:
    """A tenant's registered key: mints its tokens."""

    def __init__(self, tenant, issuer, kid, alg, key):
        self.tenant, self.issuer, self.kid, self.alg, self.key = tenant, issuer, kid, alg, key

    def claims(self, subject="tester", ttl=3600, **over):
        """Claims of a good token; over: replaced claims, None removes one."""
        now = int(time.time())
        c = {"iss": self.issuer, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + ttl,
             "acl": acl()}
        c.update(over)
        return {k: v for k, v in c.items() if v is not None}

    def header(self, **over):
        h = {"alg": self.alg, "typ": "JWT", "kid": self.kid}
        h.update(over)
        return {k: v for k, v in h.items() if v is not None}

    def token(self, subject="tester", ttl=3600, publish=("#",), subscribe=("#",), **over):
        over.setdefault("acl", acl(publish, subscribe))
        return raw(self.header(), self.claims(subject, ttl, **over), self.alg, self.key)
