-- Tokens that are no longer good although nothing is wrong with them: those of a subject, one by its id, or
-- all of a tenant. Nodes hold the table in memory and follow it by the second row of change_counter.

CREATE TABLE IF NOT EXISTS revocation (
  tenant_id      INT UNSIGNED      NOT NULL,
  kind           TINYINT UNSIGNED  NOT NULL COMMENT '1 a subject''s tokens, 2 the token with this id, 3 all of the tenant',
  name           VARBINARY(255)    NOT NULL COMMENT 'the sub or jti claim; empty for all',
  issued_before  DATETIME          NOT NULL COMMENT 'UTC: tokens with an earlier iat, or with none, are refused',
  reason         VARBINARY(255)    NOT NULL COMMENT 'for people',
  created_at     DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  expires_at     DATETIME(3)       NULL COMMENT 'UTC: none of these tokens lives longer, and the row goes; null = kept',
  PRIMARY KEY (tenant_id, kind, name),
  KEY revocation_expires (expires_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='tokens that are refused though they verify';

INSERT INTO change_counter (id, changes) VALUES (2, 0) ON DUPLICATE KEY UPDATE id = VALUES(id);

CREATE OR REPLACE VIEW revocations AS SELECT * FROM (
SELECT r.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       ELT(r.kind, 'subject', 'id', 'all')               AS kind,
       CONVERT(r.name USING utf8mb4)                     AS name,
       r.issued_before                                   AS issued_before,
       CONVERT(r.reason USING utf8mb4)                   AS reason,
       r.created_at                                      AS created_at,
       r.expires_at                                      AS expires_at
  FROM revocation r
  JOIN tenant t ON t.tenant_id = r.tenant_id) v;

DROP PROCEDURE IF EXISTS _revocations_changed;
CREATE PROCEDURE _revocations_changed()
  COMMENT 'the last of a transaction that changes revocations, as _changed is of others'
BEGIN
  UPDATE change_counter SET changes = changes + 1 WHERE id = 2;
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS _revocation;
CREATE PROCEDURE _revocation(
  p_tenant_id INT UNSIGNED,
  p_kind TINYINT UNSIGNED,
  p_name VARBINARY(255),
  OUT p_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'the row as its audit row tells it; null = there is none'
BEGIN
  SELECT JSON_OBJECT('issued_before', CAST(issued_before AS CHAR), 'reason',
                     CONVERT(reason USING utf8mb4), 'expires_at', CAST(expires_at AS CHAR))
    INTO p_json FROM revocation
   WHERE tenant_id = p_tenant_id AND kind = p_kind AND name = p_name FOR UPDATE;
END;

-- What has run out goes with the next call, of whichever tenant it is, a bounded number at a time, and without
-- a row in `audit`: it shuts out nobody any more. A second call for the same name
-- never lets in what the first shut out: the later moment and the later end count.
DROP PROCEDURE IF EXISTS _token_revoke;
CREATE PROCEDURE _token_revoke(
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_tenant LONGBLOB,
  p_kind TINYINT UNSIGNED,
  p_name LONGBLOB,
  p_before DATETIME(3),
  p_expires DATETIME(3),
  p_reason LONGBLOB)
  COMMENT 'before null: all that were issued until now, by clocks up to 5 s ahead of this one'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_name, p_reason);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE p_reason LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_reason USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_was LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_is LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_before DATETIME(3);
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  SET v_before = COALESCE(p_before, UTC_TIMESTAMP() + INTERVAL 6 SECOND);
  IF p_name IS NULL OR LENGTH(p_name) > 255 OR (p_name = '') <> (p_kind = 3) THEN
    CALL _refuse(CONCAT('a ', ELT(p_kind, 'subject', 'token id', 'tenant'), ' has 1 to 255 bytes; this one has ',
                        COALESCE(LENGTH(p_name), 0)));
  END IF;
  IF LENGTH(p_reason) > 255 THEN
    CALL _refuse(CONCAT('a reason has up to 255 bytes; this one has ', LENGTH(p_reason)));
  END IF;
  IF v_before < '1970-01-01' OR v_before > '9999-12-31 23:59:59' OR p_expires <= UTC_TIMESTAMP(3) THEN
    CALL _refuse('issued before: from 1970 on; expires: in the future, or NULL');
  END IF;
  CALL _live_tenant(p_tenant, v_id);
  DELETE FROM revocation
   WHERE expires_at <= UTC_TIMESTAMP(3)
     AND NOT EXISTS (SELECT 1 FROM tenant_move m WHERE m.tenant_id = revocation.tenant_id) LIMIT 1000;
  CALL _revocation(v_id, p_kind, CAST(p_name AS BINARY), v_was);
  INSERT INTO revocation (tenant_id, kind, name, issued_before, reason, expires_at)
  VALUES (v_id, p_kind, p_name,
          TIMESTAMPADD(SECOND, IF(MICROSECOND(v_before) > 0, 1, 0),
                       TIMESTAMPADD(MICROSECOND, -MICROSECOND(v_before), v_before)),
          COALESCE(p_reason, ''), p_expires)
  ON DUPLICATE KEY UPDATE issued_before = GREATEST(issued_before, VALUES(issued_before)),
                          reason = VALUES(reason),
                          expires_at = IF(expires_at IS NULL OR VALUES(expires_at) IS NULL, NULL,
                                          GREATEST(expires_at, VALUES(expires_at)));
  CALL _revocation(v_id, p_kind, CAST(p_name AS BINARY), v_is);
  CALL _audit(v_id, p_action, IF(p_kind = 3, p_tenant, p_name), v_was, v_is);
  CALL _revocations_changed();
END;

DROP PROCEDURE IF EXISTS token_revoke_subject;
CREATE PROCEDURE token_revoke_subject(
  p_tenant LONGBLOB,
  p_subject LONGBLOB,
  p_before DATETIME(3),
  p_expires DATETIME(3),
  p_reason LONGBLOB)
  COMMENT 'its tokens issued before this UTC time (null: until now) are refused, connections end'
BEGIN
  CALL _token_revoke('token_revoke_subject', p_tenant, 1, p_subject, p_before, p_expires, p_reason);
END;

DROP PROCEDURE IF EXISTS token_revoke_id;
CREATE PROCEDURE token_revoke_id(
  p_tenant LONGBLOB,
  p_token_id LONGBLOB,
  p_expires DATETIME(3),
  p_reason LONGBLOB)
  COMMENT 'the token with this jti claim; expires: its exp, after which the row may go; null = never'
BEGIN
  CALL _token_revoke('token_revoke_id', p_tenant, 2, p_token_id, '9999-12-31 23:59:58', p_expires, p_reason);
END;

DROP PROCEDURE IF EXISTS token_revoke_before;
CREATE PROCEDURE token_revoke_before(
  p_tenant LONGBLOB,
  p_before DATETIME(3),
  p_expires DATETIME(3),
  p_reason LONGBLOB)
  COMMENT 'every token of the tenant that was issued before this UTC time; null: until now'
BEGIN
  CALL _token_revoke('token_revoke_before', p_tenant, 3, '', p_before, p_expires, p_reason);
END;

DROP PROCEDURE IF EXISTS token_revoke_undo;
CREATE PROCEDURE token_revoke_undo(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_name LONGBLOB)
  COMMENT 'kind and name as in the view revocations: the row goes, its tokens are good again'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_kind, p_name);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kind USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_was LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_kind TINYINT UNSIGNED DEFAULT FIELD(p_kind, 'subject', 'id', 'all');
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  IF v_kind = 0 OR p_kind LIKE '% ' THEN
    CALL _refuse(CONCAT('kind must be subject, id or all, not ', COALESCE(QUOTE(LEFT(p_kind, 30)), 'NULL')));
  END IF;
  CALL _begin();
  CALL _live_tenant(p_tenant, v_id);
  IF LENGTH(p_name) <= 255 THEN
    CALL _revocation(v_id, v_kind, CAST(p_name AS BINARY), v_was);
  END IF;
  IF v_was IS NULL THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has no such revocation: see the view revocations'));
  END IF;
  DELETE FROM revocation WHERE tenant_id = v_id AND kind = v_kind AND name = CAST(p_name AS BINARY);
  CALL _audit(v_id, 'token_revoke_undo', CONCAT(p_kind, ' ', p_name), v_was, NULL);
  CALL _revocations_changed();
END;
