-- An operator's identity providers: whose keys come from a URL (JWKS) instead of from key_add. One node,
-- which has the role, fetches them; all nodes follow by the third row of change_counter. An issuer is
-- either here or in tenant_key, never in both: issuer_add and key_add see to it, one after the other, by
-- locking that row.

CREATE TABLE IF NOT EXISTS issuer (
  issuer         VARBINARY(255)    NOT NULL COMMENT 'the iss claim',
  jwks_url       VARBINARY(1024)   NOT NULL COMMENT 'https',
  audience       VARBINARY(255)    NOT NULL COMMENT 'the aud claim must contain it',
  tenant_claim   VARBINARY(255)    NOT NULL COMMENT 'which claim has the tenant''s name; empty: see tenant_id',
  tenant_id      INT UNSIGNED      NOT NULL COMMENT 'all its tokens are this tenant''s; 0 = by claim',
  subject_claim  VARBINARY(255)    NOT NULL COMMENT 'which claim has the subject',
  permissions    VARBINARY(255)    NOT NULL COMMENT 'acl, or which claim has scopes',
  state          TINYINT UNSIGNED  NOT NULL DEFAULT 1 COMMENT '1 active, 2 retired',
  created_at     DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  jwks           MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'this and below are written by nodes: the last good keys',
  fetched_at     DATETIME(3)       NULL COMMENT 'UTC, of these',
  tried_at       DATETIME(3)       NULL COMMENT 'UTC, of the last attempt; null = at once',
  fetches        BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'raised by every attempt: a late one finds it, or jwks_url, changed',
  failures       INT UNSIGNED      NOT NULL DEFAULT 0 COMMENT 'since the last good one',
  last_error     VARBINARY(255)    NOT NULL DEFAULT '' COMMENT 'of the last attempt; empty = it was good',
  wanted         BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'raised by a node that saw a kid it does not know',
  answered       BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'wanted at the last attempt',
  PRIMARY KEY (issuer),
  KEY issuer_tenant (tenant_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='an operator''s identity provider';

INSERT INTO change_counter (id, changes) VALUES (3, 0) ON DUPLICATE KEY UPDATE id = VALUES(id);
INSERT INTO role (role) VALUES (4) ON DUPLICATE KEY UPDATE role = VALUES(role);

CREATE OR REPLACE VIEW issuers AS SELECT * FROM (
SELECT CONVERT(i.issuer USING utf8mb4)                   AS issuer,
       ELT(i.state, 'active', 'retired')                 AS state,
       CONVERT(i.jwks_url USING utf8mb4)                 AS jwks_url,
       CONVERT(i.audience USING utf8mb4)                 AS audience,
       NULLIF(CONVERT(i.tenant_claim USING utf8mb4), '') AS tenant_claim,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       CONVERT(i.subject_claim USING utf8mb4)            AS subject_claim,
       CONVERT(i.permissions USING utf8mb4)              AS permissions,
       JSON_EXTRACT(i.jwks, '$.keys[*].kid')             AS kids,
       i.fetched_at                                      AS fetched_at,
       i.tried_at                                        AS tried_at,
       CONVERT(i.last_error USING utf8mb4)               AS last_error,
       i.created_at                                      AS created_at
  FROM issuer i
  LEFT JOIN tenant t ON t.tenant_id = i.tenant_id) v;

DROP PROCEDURE IF EXISTS _issuers_begin;
CREATE PROCEDURE _issuers_begin()
  COMMENT 'one at a time, and none beside key_add; after the tenant was locked'
BEGIN
  DECLARE v_changes BIGINT UNSIGNED;

  SELECT changes INTO v_changes FROM change_counter WHERE id = 3 FOR UPDATE;
END;

DROP PROCEDURE IF EXISTS _issuers_changed;
CREATE PROCEDURE _issuers_changed()
  COMMENT 'the last of a transaction that changes issuers, as _changed is of others'
BEGIN
  UPDATE change_counter SET changes = changes + 1 WHERE id = 3;
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS _issuer_check;
CREATE PROCEDURE _issuer_check(
  p_setting VARCHAR(30) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_value LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'refuses a setting that cannot be'
BEGIN
  IF p_value IS NULL OR p_value = '' OR LENGTH(p_value) > IF(p_setting = 'jwks_url', 1024, 255) THEN
    CALL _refuse(CONCAT(p_setting, ' has 1 to ', IF(p_setting = 'jwks_url', 1024, 255),
                        ' bytes; this one has ', COALESCE(LENGTH(p_value), 0)));
  END IF;
  IF p_setting = 'jwks_url' AND (p_value NOT REGEXP '^https://[A-Za-z0-9.:_-]+/'
                                 AND p_value NOT REGEXP '^https://\\[[0-9A-Fa-f:.]+\\](:[0-9]+)?/'
                                 OR p_value REGEXP '[^!-~]' OR p_value LIKE '%#%') THEN
    CALL _refuse(CONCAT('jwks_url is https://HOST[:PORT]/PATH, without a user or a fragment: ',
                        QUOTE(LEFT(p_value, 40))));
  END IF;
END;

DROP PROCEDURE IF EXISTS _issuer;
CREATE PROCEDURE _issuer(
  p_issuer LONGBLOB,
  OUT p_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_state TINYINT UNSIGNED,
  OUT p_tenant_id INT UNSIGNED)
  COMMENT 'the row as its audit row tells it, and whose it is (0 = no single tenant''s); state null = there is none'
BEGIN
  DECLARE v_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE v_tenant INT UNSIGNED DEFAULT 0;

  SELECT JSON_OBJECT('jwks_url', CONVERT(i.jwks_url USING utf8mb4),
                     'audience', CONVERT(i.audience USING utf8mb4),
                     'tenant_claim', CONVERT(i.tenant_claim USING utf8mb4),
                     'tenant', CONVERT(t.name USING utf8mb4),
                     'subject_claim', CONVERT(i.subject_claim USING utf8mb4),
                     'permissions', CONVERT(i.permissions USING utf8mb4),
                     'state', ELT(i.state, 'active', 'retired')), i.state, i.tenant_id
    INTO v_json, v_state, v_tenant
    FROM issuer i LEFT JOIN tenant t ON t.tenant_id = i.tenant_id WHERE i.issuer = p_issuer;
  SET p_json = v_json, p_state = v_state, p_tenant_id = v_tenant;
END;

DROP PROCEDURE IF EXISTS issuer_add;
CREATE PROCEDURE issuer_add(
  p_issuer LONGBLOB,
  p_jwks_url LONGBLOB,
  p_audience LONGBLOB,
  p_tenant_claim LONGBLOB,
  p_tenant LONGBLOB,
  p_subject_claim LONGBLOB,
  p_permissions LONGBLOB)
  COMMENT 'an identity provider; tenant_claim or tenant; null: subject_claim sub, permissions acl'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_issuer, p_jwks_url, p_audience, p_tenant_claim, p_tenant, p_subject_claim, p_permissions);
  DECLARE p_issuer LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_issuer USING utf8mb4);
  DECLARE p_jwks_url LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_jwks_url USING utf8mb4);
  DECLARE p_audience LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_audience USING utf8mb4);
  DECLARE p_tenant_claim LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant_claim USING utf8mb4);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_subject_claim LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject_claim USING utf8mb4);
  DECLARE p_permissions LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_permissions USING utf8mb4);
  DECLARE v_id, v_old_id INT UNSIGNED DEFAULT 0;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE v_was, v_is LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_keys BIGINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _issuer_check('issuer', p_issuer);
  CALL _issuer_check('jwks_url', p_jwks_url);
  CALL _issuer_check('audience', p_audience);
  CALL _issuer_check('subject_claim', COALESCE(p_subject_claim, 'sub'));
  CALL _issuer_check('permissions', COALESCE(p_permissions, 'acl'));
  IF (p_tenant_claim IS NULL) = (p_tenant IS NULL) THEN
    CALL _refuse('give tenant_claim (which claim names the tenant) or tenant (all tokens are its), not both');
  END IF;
  CALL _begin();
  IF p_tenant IS NOT NULL THEN
    CALL _kept_tenant(p_tenant, v_id);
  ELSE
    CALL _issuer_check('tenant_claim', p_tenant_claim);
  END IF;
  CALL _issuers_begin();
  SELECT COUNT(*) INTO v_keys FROM tenant_key WHERE issuer = CAST(p_issuer AS BINARY);
  IF v_keys > 0 THEN
    CALL _refuse('a tenant has or had keys of its own for this issuer: it cannot be an identity provider too');
  END IF;
  CALL _issuer(CAST(p_issuer AS BINARY), v_was, v_state, v_old_id);
  IF v_state = 1 THEN
    CALL _refuse('this issuer is there already: see issuer_set');
  END IF;
  DELETE FROM issuer WHERE issuer = CAST(p_issuer AS BINARY);
  INSERT INTO issuer (issuer, jwks_url, audience, tenant_claim, tenant_id, subject_claim, permissions)
  VALUES (p_issuer, p_jwks_url, p_audience, COALESCE(p_tenant_claim, ''), v_id,
          COALESCE(p_subject_claim, 'sub'), COALESCE(p_permissions, 'acl'));
  CALL _issuer(CAST(p_issuer AS BINARY), v_is, v_state, v_id);
  CALL _audit(v_id, 'issuer_add', p_issuer, v_was, v_is);
  CALL _issuers_changed();
END;

-- A change of what a token of it may be ends the connections there are, as a new key does.
DROP PROCEDURE IF EXISTS issuer_set;
CREATE PROCEDURE issuer_set(
  p_issuer LONGBLOB,
  p_setting LONGBLOB,
  p_value LONGBLOB)
  COMMENT 'one setting, named as its column in the view issuers, jwks_url to permissions'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_issuer, p_setting, p_value);
  DECLARE p_issuer LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_issuer USING utf8mb4);
  DECLARE p_setting LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_setting USING utf8mb4);
  DECLARE p_value LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_value USING utf8mb4);
  DECLARE v_id, v_old_id INT UNSIGNED DEFAULT 0;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE v_was, v_is LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  IF p_setting IS NULL OR p_setting NOT IN ('jwks_url', 'audience', 'tenant_claim', 'tenant', 'subject_claim',
                                            'permissions') OR p_setting LIKE '% ' THEN
    CALL _refuse(CONCAT('settings are jwks_url, audience, tenant_claim, tenant, subject_claim, permissions, not ',
                        COALESCE(QUOTE(LEFT(p_setting, 20)), 'NULL')));
  END IF;
  CALL _issuer_check(p_setting, p_value);
  CALL _begin();
  IF p_setting = 'tenant' THEN
    CALL _kept_tenant(p_value, v_id);
  END IF;
  CALL _issuers_begin();
  CALL _issuer(CAST(LEFT(p_issuer, 256) AS BINARY), v_was, v_state, v_old_id);
  IF v_state IS NULL OR v_state <> 1 THEN
    CALL _refuse('there is no such issuer: see the view issuers');
  END IF;
  UPDATE issuer
     SET jwks_url = IF(p_setting = 'jwks_url', p_value, jwks_url),
         tried_at = IF(p_setting = 'jwks_url', NULL, tried_at),
         fetches = fetches + IF(p_setting = 'jwks_url', 1, 0),
         audience = IF(p_setting = 'audience', p_value, audience),
         tenant_claim = CASE p_setting WHEN 'tenant_claim' THEN p_value WHEN 'tenant' THEN ''
                                       ELSE tenant_claim END,
         tenant_id = IF(p_setting IN ('tenant_claim', 'tenant'), v_id, tenant_id),
         subject_claim = IF(p_setting = 'subject_claim', p_value, subject_claim),
         permissions = IF(p_setting = 'permissions', p_value, permissions)
   WHERE issuer = CAST(p_issuer AS BINARY);
  CALL _issuer(CAST(p_issuer AS BINARY), v_is, v_state, v_id);
  CALL _audit(v_id, 'issuer_set', p_issuer, v_was, v_is);
  IF v_old_id NOT IN (0, v_id) THEN
    CALL _audit(v_old_id, 'issuer_set', p_issuer, v_was, v_is); -- it is this tenant's no more
  END IF;
  CALL _issuers_changed();
END;

DROP PROCEDURE IF EXISTS issuer_retire;
CREATE PROCEDURE issuer_retire(p_issuer LONGBLOB)
  COMMENT 'its tokens are refused and their connections end; issuer_add takes it up again'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_issuer);
  DECLARE p_issuer LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_issuer USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE v_was, v_is LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _issuers_begin();
  CALL _issuer(CAST(LEFT(p_issuer, 256) AS BINARY), v_was, v_state, v_id);
  IF v_state IS NULL OR v_state <> 1 THEN
    CALL _refuse('there is no such issuer: see the view issuers');
  END IF;
  UPDATE issuer SET state = 2, jwks = NULL, fetched_at = NULL WHERE issuer = CAST(p_issuer AS BINARY);
  CALL _issuer(CAST(p_issuer AS BINARY), v_is, v_state, v_id);
  CALL _audit(v_id, 'issuer_retire', p_issuer, v_was, v_is);
  CALL _issuers_changed();
END;
