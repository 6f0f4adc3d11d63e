-- The keys that verify tenants' tokens. To change a key without refusing anybody: key_add the new one
-- under a new kid, let whoever signs use it, wait until the last old token has expired, key_retire the
-- old one. Both verify in between.

DROP PROCEDURE IF EXISTS _jwk_members;
CREATE PROCEDURE _jwk_members(p_jwk LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'refuses a name that is there twice, or written with escapes: each server would read another key'
BEGIN
  DECLARE v_frame LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;

  CALL _json_frame(p_jwk, v_frame);
  -- no member of a public key is one (RFC 7517, 7518, 8037); in it SQL cannot see what is there twice
  IF LENGTH(v_frame) - LENGTH(REPLACE(v_frame, '{', '')) > 1 THEN
    CALL _refuse('this JWK has an object within: leave that member out');
  END IF;
  IF LENGTH(v_frame) - LENGTH(REPLACE(v_frame, ':', '')) <> JSON_LENGTH(JSON_KEYS(p_jwk)) THEN
    CALL _refuse('this JWK has a member twice');
  END IF;
  IF LOCATE('\\', JSON_KEYS(p_jwk)) THEN
    CALL _refuse('this JWK has a member with a backslash in its name');
  END IF;
END;

DROP PROCEDURE IF EXISTS _jwk_bytes;
CREATE PROCEDURE _jwk_bytes(
  p_jwk LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_member VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_least INT UNSIGNED,
  p_most INT UNSIGNED)
  COMMENT 'a member of so many bytes in base64url (RFC 4648), without padding, the last bits zero'
BEGIN
  DECLARE v_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT JSON_EXTRACT(p_jwk, CONCAT('$.', p_member));
  DECLARE v_text LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin
    DEFAULT IF(JSON_TYPE(v_json) = 'STRING', JSON_UNQUOTE(v_json), '');

  IF FLOOR(LENGTH(v_text) * 6 / 8) NOT BETWEEN p_least AND p_most OR v_text REGEXP '[^A-Za-z0-9_-]'
     OR CASE LENGTH(v_text) % 4 WHEN 1 THEN 1 WHEN 2 THEN v_text NOT REGEXP '[AQgw]$'
                                WHEN 3 THEN v_text NOT REGEXP '[AEIMQUYcgkosw048]$' ELSE 0 END THEN
    CALL _refuse(CONCAT('member ', p_member, ' of this JWK must be base64url of ', p_least, ' to ', p_most,
                        ' bytes'));
  END IF;
END;

DROP PROCEDURE IF EXISTS _jwk_check;
CREATE PROCEDURE _jwk_check(
  p_jwk LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kid LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_alg LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'what SQL can tell of a JWK; whether its numbers are a key, the nodes find'
BEGIN
  DECLARE v_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CASE p_alg
    WHEN 'HS256' THEN 'oct' WHEN 'ES256' THEN 'EC P-256' WHEN 'EdDSA' THEN 'OKP Ed25519' ELSE 'RSA' END;
  DECLARE v_is LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT COALESCE(
    JSON_UNQUOTE(JSON_EXTRACT(p_jwk, '$.kty')), 'NULL');

  CALL _jwk_members(p_jwk);
  IF v_is IN ('EC', 'OKP') THEN
    SET v_is = CONCAT(v_is, ' ', COALESCE(JSON_UNQUOTE(JSON_EXTRACT(p_jwk, '$.crv')), 'NULL'));
  END IF;
  IF v_is <> v_kind THEN
    CALL _refuse(CONCAT('a JWK for ', p_alg, ' is of kty (and crv) ', v_kind, ', not ', LEFT(v_is, 40)));
  END IF;
  IF JSON_CONTAINS_PATH(p_jwk, 'one', '$.d', '$.p', '$.q', '$.dp', '$.dq', '$.qi', '$.oth')
     OR (v_kind <> 'oct' AND JSON_CONTAINS_PATH(p_jwk, 'one', '$.k')) THEN
    CALL _refuse('this is a private key: keep it, and give its public half');
  END IF;
  IF COALESCE(JSON_UNQUOTE(JSON_EXTRACT(p_jwk, '$.alg')), p_alg) <> p_alg THEN
    CALL _refuse(CONCAT('this JWK is for alg ', LEFT(JSON_UNQUOTE(JSON_EXTRACT(p_jwk, '$.alg')), 30), ', not for ', p_alg));
  END IF;
  IF COALESCE(JSON_UNQUOTE(JSON_EXTRACT(p_jwk, '$.kid')), p_kid) <> p_kid THEN
    CALL _refuse(CONCAT('this JWK has the kid ', LEFT(JSON_UNQUOTE(JSON_EXTRACT(p_jwk, '$.kid')), 40), ', not ', p_kid));
  END IF;
  IF COALESCE(JSON_UNQUOTE(JSON_EXTRACT(p_jwk, '$.use')), 'sig') <> 'sig'
     OR COALESCE(JSON_TYPE(JSON_EXTRACT(p_jwk, '$.key_ops')), 'ARRAY') <> 'ARRAY'
     OR NOT COALESCE(JSON_CONTAINS(JSON_EXTRACT(p_jwk, '$.key_ops'), '"verify"'), 1) THEN
    CALL _refuse('this JWK is not for signatures: its use must be sig, its key_ops must have verify');
  END IF;
  IF NOT CASE v_kind WHEN 'oct' THEN JSON_CONTAINS_PATH(p_jwk, 'all', '$.k')
                     WHEN 'RSA' THEN JSON_CONTAINS_PATH(p_jwk, 'all', '$.n', '$.e')
                     WHEN 'EC P-256' THEN JSON_CONTAINS_PATH(p_jwk, 'all', '$.x', '$.y')
                     ELSE JSON_CONTAINS_PATH(p_jwk, 'all', '$.x') END THEN
    CALL _refuse(CONCAT('this JWK lacks a member: kty ', v_kind, ' has ',
                        CASE v_kind WHEN 'oct' THEN 'k' WHEN 'RSA' THEN 'n and e'
                                    WHEN 'EC P-256' THEN 'x and y' ELSE 'x' END));
  END IF;
  CASE v_kind
    WHEN 'oct' THEN CALL _jwk_bytes(p_jwk, 'k', 32, 1024);
    WHEN 'RSA' THEN
      CALL _jwk_bytes(p_jwk, 'n', 256, 1024);
      CALL _jwk_bytes(p_jwk, 'e', 1, 8);
    ELSE
      CALL _jwk_bytes(p_jwk, 'x', 32, 32);
      IF v_kind = 'EC P-256' THEN
        CALL _jwk_bytes(p_jwk, 'y', 32, 32);
      END IF;
  END CASE;
END;

DROP PROCEDURE IF EXISTS key_add;
CREATE PROCEDURE key_add(
  p_tenant LONGBLOB,
  p_issuer LONGBLOB,
  p_kid LONGBLOB,
  p_alg LONGBLOB,
  p_material LONGBLOB)
  COMMENT 'tokens of this issuer and kid are the tenant''s; material: a PEM public key, a raw secret, or a JWK'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_issuer, p_kid, p_alg);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_issuer LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_issuer USING utf8mb4);
  DECLARE p_kid LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kid USING utf8mb4);
  DECLARE p_alg LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_alg USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_text LONGTEXT CHARSET latin1 COLLATE latin1_bin;
  DECLARE v_is_jwk TINYINT DEFAULT 0;
  DECLARE v_issuers BIGINT UNSIGNED;
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK AND NO CHAIN NO RELEASE;
    CALL _refuse('this issuer and kid are taken, or were; choose another kid');
  END;
  DECLARE EXIT HANDLER FOR 3157 CALL _refuse('this JSON is nested too deeply'); -- MySQL's
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  IF p_issuer IS NULL OR p_issuer = '' OR LENGTH(p_issuer) > 255 THEN
    CALL _refuse(CONCAT('an issuer has 1 to 255 bytes; this one has ',
                        COALESCE(LENGTH(p_issuer), 0)));
  END IF;
  IF p_kid IS NULL OR p_kid = '' OR LENGTH(p_kid) > 128 OR p_kid REGEXP '[^!-~]' THEN
    CALL _refuse(CONCAT('a kid is 1 to 128 printable ASCII characters, no spaces: ',
                        COALESCE(QUOTE(LEFT(p_kid, 64)), 'NULL')));
  END IF;
  IF p_alg IS NULL OR p_alg NOT IN ('HS256', 'RS256', 'PS256', 'ES256', 'EdDSA') OR p_alg LIKE '% ' THEN
    CALL _refuse(CONCAT('alg must be HS256, RS256, PS256, ES256 or EdDSA, not ',
                        COALESCE(QUOTE(LEFT(p_alg, 30)), 'NULL')));
  END IF;
  SET v_text = CONVERT(p_material USING latin1);
  IF v_text REGEXP '^[ \\t\\r\\n]*[{]' AND LENGTH(p_material) <= 16384 AND JSON_VALID(v_text) THEN
    SET v_is_jwk = JSON_CONTAINS_PATH(v_text, 'one', '$.kty');
  END IF;
  IF v_is_jwk THEN
    CALL _utf8_check(p_material);
    CALL _jwk_check(CONVERT(p_material USING utf8mb4), p_kid, p_alg);
  ELSEIF p_alg = 'HS256' THEN
    IF p_material IS NULL OR LENGTH(p_material) NOT BETWEEN 32 AND 1024 THEN
      CALL _refuse(CONCAT('a secret for HS256 has 32 to 1024 bytes; this one has ',
                          COALESCE(LENGTH(p_material), 0)));
    END IF;
    IF v_text REGEXP '^[ \\t\\r\\n]*[{]' AND v_text LIKE '%"kty"%' THEN
      CALL _refuse('this looks like a JWK and is no JSON');
    END IF;
    IF v_text LIKE '%-----BEGIN %' THEN
      CALL _refuse('a PEM file is no secret for HS256: give its own algorithm');
    END IF;
  ELSE
    IF v_text LIKE '%PRIVATE KEY-----%' THEN
      CALL _refuse('this is a private key: keep it, and give its public half');
    END IF;
    IF p_material IS NULL OR LENGTH(p_material) > 16384
       OR v_text NOT LIKE '%-----BEGIN PUBLIC KEY-----%-----END PUBLIC KEY-----%' THEN
      CALL _refuse(CONCAT('a key for ', p_alg, ' is a public key in PEM (-----BEGIN PUBLIC',
                          ' KEY-----) or a JWK, up to 16384 bytes'));
    END IF;
  END IF;
  CALL _begin();
  CALL _live_tenant(p_tenant, v_id);
  CALL _issuers_begin();
  SELECT COUNT(*) INTO v_issuers FROM issuer WHERE issuer = CAST(p_issuer AS BINARY);
  IF v_issuers > 0 THEN
    CALL _refuse('this issuer is an identity provider: its keys come from its jwks_url');
  END IF;
  INSERT INTO tenant_key (issuer, kid, tenant_id, alg, key_material)
  VALUES (p_issuer, p_kid, v_id, p_alg, p_material);
  CALL _audit(v_id, 'key_add', CONCAT(p_issuer, ' ', p_kid), NULL,
              JSON_OBJECT('issuer', p_issuer, 'kid', p_kid, 'alg', p_alg, 'sha256', -- none of a secret: it could be guessed
                          IF(p_alg = 'HS256', NULL, SHA2(p_material, 256))));
  CALL _changed();
END;

DROP PROCEDURE IF EXISTS key_retire;
CREATE PROCEDURE key_retire(
  p_tenant LONGBLOB,
  p_issuer LONGBLOB,
  p_kid LONGBLOB)
  COMMENT 'its tokens are refused and their connections end'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_issuer, p_kid);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_issuer LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_issuer USING utf8mb4);
  DECLARE p_kid LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kid USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _live_tenant(p_tenant, v_id);
  SELECT state INTO v_state FROM tenant_key
   WHERE issuer = CAST(p_issuer AS BINARY) AND kid = CAST(p_kid AS BINARY) AND tenant_id = v_id
     FOR UPDATE;
  IF v_state IS NULL THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has no key with this issuer and kid'));
  END IF;
  UPDATE tenant_key SET state = 2
   WHERE issuer = CAST(p_issuer AS BINARY) AND kid = CAST(p_kid AS BINARY) AND tenant_id = v_id;
  CALL _audit(v_id, 'key_retire', CONCAT(p_issuer, ' ', p_kid),
              JSON_OBJECT('state', ELT(v_state, 'active', 'retired')),
              JSON_OBJECT('state', 'retired'));
  CALL _changed();
END;
