"""Certificates for the tests: a private CA, server certificates, and the contexts clients use."""

import datetime
import ipaddress
import os
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from leat.token import b64


def new_key(alg):
    """A private key for a JWS algorithm; HS* gives random text (a file's last line end is not a
    secret's, so random bytes would not do)."""
    if alg.startswith("HS"):
        return os.urandom(int(alg[2:]) // 8).hex().encode()
    if alg.startswith(("RS", "PS")):
        return rsa.generate_private_key(65537, 2048)
    if alg.startswith("ES"):
        return ec.generate_private_key(
            {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}[alg]())
    return ed25519.Ed25519PrivateKey.generate()


def private_pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM,
                                         serialization.PublicFormat.SubjectPublicKeyInfo)


def jwk(key, **members):
    """The public half of a key as a JWK (of HS*: the secret)."""
    def number(n, size=None):
        return b64(n.to_bytes(size or (n.bit_length() + 7) // 8, "big")).decode()
    if isinstance(key, bytes):
        return {"kty": "oct", "k": b64(key).decode(), **members}
    if isinstance(key, ed25519.Ed25519PrivateKey):
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw).decode(), **members}
    n = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return {"kty": "RSA", "n": number(n.n), "e": number(n.e), **members}
    return {"kty": "EC", "crv": "P-256", "x": number(n.x, 32), "y": number(n.y, 32), **members}


class Authority:
    """A CA in a directory: ca.crt, and server certificates issued to any path."""

    def __init__(self, directory, name="Leat test CA"):
        self.dir = directory
        os.makedirs(directory, exist_ok=True)
        self.key = new_key("ES256")
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.cert = self._build(self.name, self.key.public_key(), authority=True)
        self.file = os.path.join(directory, "ca.crt")
        with open(self.file, "wb") as f:
            f.write(self.cert.public_bytes(serialization.Encoding.PEM))

    def _build(self, subject, public_key, authority=False):
        now = datetime.datetime.now(datetime.timezone.utc)
        b = (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name)
             .public_key(public_key).serial_number(x509.random_serial_number())
             .not_valid_before(now - datetime.timedelta(hours=1))
             .not_valid_after(now + datetime.timedelta(days=2))
             .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True))
        if not authority:
            b = b.add_extension(x509.SubjectAlternativeName([
                x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        return b.sign(self.key, hashes.SHA256())

    def issue(self, cert_file, key_file):
        """Write a new server certificate and key; returns the certificate's serial number."""
        key = new_key("ES256")
        cert = self._build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]),
                           key.public_key())
        for path, data in ((cert_file, cert.public_bytes(serialization.Encoding.PEM)),
                           (key_file, private_pem(key))):
            # Replaced in one step, as a reload may read at any moment.
            with open(path + ".new", "wb", opener=lambda p, f: os.open(p, f, 0o600)) as f:
                f.write(data)
            os.replace(path + ".new", path)
        return cert.serial_number


def client_context(ca_file):
    return ssl.create_default_context(cafile=ca_file)
