-- The keys that verify tenants' tokens. To change a key without refusing anybody: key_add the new one
-- under a new kid, let whoever signs use it, wait until the last old token has expired, key_retire the
-- old one. Both verify in between.

DROP PROCEDURE IF EXISTS key_add;
CREATE PROCEDURE key_add(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_issuer TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kid TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_alg TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_material LONGBLOB)
  COMMENT 'tokens of this issuer and kid are the tenant''s; material: a PEM public key, or a raw secret'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_text LONGTEXT CHARSET latin1 COLLATE latin1_bin;
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK;
    CALL _refuse('this issuer and kid are taken, or were; choose another kid');
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  IF p_issuer IS NULL OR p_issuer = '' OR LENGTH(p_issuer) > 255 THEN
    CALL _refuse(CONCAT('an issuer has 1 to 255 bytes; this one has ',
                        COALESCE(LENGTH(p_issuer), 0)));
  END IF;
  IF p_kid IS NULL OR p_kid = '' OR LENGTH(p_kid) > 64 OR p_kid REGEXP '[^A-Za-z0-9_-]' THEN
    CALL _refuse(CONCAT('a kid is 1 to 64 of A-Z, a-z, 0-9, _ and -: ',
                        COALESCE(QUOTE(LEFT(p_kid, 64)), 'NULL')));
  END IF;
  IF p_alg IS NULL OR p_alg NOT IN ('HS256', 'RS256', 'PS256', 'ES256', 'EdDSA') THEN
    CALL _refuse(CONCAT('alg must be HS256, RS256, PS256, ES256 or EdDSA, not ',
                        COALESCE(QUOTE(LEFT(p_alg, 30)), 'NULL')));
  END IF;
  SET v_text = CONVERT(p_material USING latin1);
  IF p_alg = 'HS256' THEN
    IF p_material IS NULL OR LENGTH(p_material) NOT BETWEEN 32 AND 1024 THEN
      CALL _refuse(CONCAT('a secret for HS256 has 32 to 1024 bytes; this one has ',
                          COALESCE(LENGTH(p_material), 0)));
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
                          ' KEY-----), up to 16384 bytes'));
    END IF;
  END IF;
  CALL _begin();
  CALL _live_tenant(p_tenant, v_id);
  INSERT INTO tenant_key (issuer, kid, tenant_id, alg, key_material)
  VALUES (p_issuer, p_kid, v_id, p_alg, p_material);
  CALL _audit(v_id, 'key_add', CONCAT(p_issuer, ' ', p_kid), NULL,
              JSON_OBJECT('issuer', p_issuer, 'kid', p_kid, 'alg', p_alg));
  CALL _changed();
END;

DROP PROCEDURE IF EXISTS key_retire;
CREATE PROCEDURE key_retire(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_issuer TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kid TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'its tokens are refused and their connections end'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

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
