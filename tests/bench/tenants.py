"""tenants: thousands of them at once, by SQL, and tokens for each without a process for each."""
import base64
import hashlib
import hmac
import json
import subprocess
import time

import stack

SEED = "tests only"  # secrets follow from it and the name, on both sides


def _b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _token(name):
    """An HS256 token, good for an hour, that may do everything in its tenant."""
    now = int(time.time())
    header = {"alg": "HS256", "typ": "JWT", "kid": "k"}
    claims = {"iss": name, "sub": "bench", "aud": "leat", "iat": now, "exp": now + 3600,
              "acl": [{"permission": "allow", "action": "all", "topics": ["#"]}]}
    signed = ".".join(_b64(json.dumps(x, separators=(",", ":")).encode()) for x in (header, claims))
    secret = hashlib.sha256((SEED + name).encode()).digest()
    return f"{signed}.{_b64(hmac.digest(secret, signed.encode(), 'sha256'))}"


def create_as_admin(s, prefix, count):
    """The same by a script of what an admin would CALL, one after the other; and how long that took."""
    script = s.dir / f"{prefix}.sql"
    with script.open("w") as f:
        for name in (f"{prefix}-{n}" for n in range(1, count + 1)):
            secret = hashlib.sha256((SEED + name).encode()).hexdigest()
            f.write(f"CALL tenant_create('{name}', NULL, NULL);\nCALL key_add('{name}', '{name}', 'k', 'HS256',"
                    f" x'{secret}');\n")
    began = time.monotonic()
    s.sql(f"SOURCE {script}")
    took = time.monotonic() - began
    tokens = s.dir / f"{prefix}.tokens"
    tokens.write_text("".join(_token(f"{prefix}-{n}") + "\n" for n in range(1, count + 1)))
    _wait_known(s, prefix, count)
    return tokens, took


def create(s, prefix, count):
    """count tenants PREFIX-1 .. in the stack's database; a file with a token of each."""
    ours = f"FROM tenant WHERE name LIKE '{prefix}-%'"
    s.sql(f"""
        START TRANSACTION;
        INSERT INTO tenant(name) SELECT CONCAT('{prefix}-', seq) FROM seq_1_to_{count};
        INSERT INTO head(tenant_id, partition_id, next_seq, bytes) SELECT tenant_id, 0, 1, 0 {ours};
        INSERT INTO tenant_key(issuer, kid, tenant_id, alg, key_material)
          SELECT name, 'k', tenant_id, 'HS256', UNHEX(SHA2(CONCAT('{SEED}', name), 256)) {ours};
        UPDATE change_counter SET changes = changes + 1 WHERE id = 1;
        COMMIT""")
    tokens = s.dir / f"{prefix}.tokens"
    tokens.write_text("".join(_token(f"{prefix}-{n}") + "\n" for n in range(1, count + 1)))
    _wait_known(s, prefix, count)
    return tokens


def _wait_known(s, prefix, count):
    """Until the node knows the last of them."""
    last = s.dir / f"{prefix}.last"
    last.write_text(_token(f"{prefix}-{count}"))

    def known():
        return not subprocess.run(
            [stack.LEAT, "pub", "--url", s.nodes[0].url, "--ca", str(s.ca), "--token", str(last),
             "-t", "hello", "-m", "x"], capture_output=True, timeout=30).returncode

    stack.wait_until("the node does not know the new tenants", known)
