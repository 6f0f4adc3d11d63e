-- Client certificates that stand for a tenant's clients, where nodes ask for them (--client-ca). A certificate is
-- known by its fingerprint and by nothing that is written in it: no authority, and no tenant that has one
-- of its own, can make another that counts as the same. Nodes follow by the fourth row of change_counter.

CREATE TABLE IF NOT EXISTS client_certificate (
  fingerprint    BINARY(32)        NOT NULL COMMENT 'SHA-256 of the certificate (DER)',
  tenant_id      INT UNSIGNED      NOT NULL,
  subject        VARBINARY(255)    NOT NULL COMMENT 'whose client ids are its: as the sub claim of a token',
  acl            LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'JSON, as the acl claim of a token',
  created_at     DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  PRIMARY KEY (fingerprint),
  KEY client_certificate_tenant (tenant_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='which client certificate is whose';

INSERT INTO change_counter (id, changes) VALUES (4, 0) ON DUPLICATE KEY UPDATE id = VALUES(id);

CREATE OR REPLACE VIEW certificates AS SELECT * FROM (
SELECT c.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       LOWER(HEX(c.fingerprint))                         AS fingerprint,
       CONVERT(c.subject USING utf8mb4)                  AS subject,
       c.acl                                             AS acl,
       c.created_at                                      AS created_at
  FROM client_certificate c
  JOIN tenant t ON t.tenant_id = c.tenant_id) v;

DROP PROCEDURE IF EXISTS _certificates_changed;
CREATE PROCEDURE _certificates_changed()
  COMMENT 'the last of a transaction that changes certificates, as _changed is of others'
BEGIN
  UPDATE change_counter SET changes = changes + 1 WHERE id = 4;
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS _fingerprint;
CREATE PROCEDURE _fingerprint(
  p_text LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_fingerprint BINARY(32))
  COMMENT 'of what a person wrote: 64 hexadecimal digits, with or without colons'
BEGIN
  DECLARE v_hex LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT REPLACE(LEFT(p_text, 100), ':', '');

  IF v_hex IS NULL OR CHAR_LENGTH(v_hex) <> 64 OR v_hex REGEXP '[^0-9A-Fa-f]' THEN
    CALL _refuse(CONCAT('a fingerprint is the SHA-256 of the certificate, 64 hexadecimal digits, not ',
                        COALESCE(QUOTE(LEFT(p_text, 20)), 'NULL')));
  END IF;
  SET p_fingerprint = UNHEX(v_hex);
END;

-- The rules of tenancy/acl.h. What SQL would read differently from a node is refused: a member twice.
DROP PROCEDURE IF EXISTS _acl_filter;
CREATE PROCEDURE _acl_filter(
  p_entry INT UNSIGNED,
  p_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'a topic filter of an acl, in which ${clientid} and ${sub} stand for one level'
BEGIN
  DECLARE v_text LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin
    DEFAULT IF(JSON_TYPE(p_json) = 'STRING', JSON_UNQUOTE(p_json), NULL);
  DECLARE v_filter LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin
    DEFAULT REPLACE(REPLACE(v_text, '${clientid}', 'x'), '${sub}', 'x');

  IF v_filter IS NULL OR LENGTH(v_text) NOT BETWEEN 1 AND 1024 OR v_text LIKE 'eq %' OR LOCATE('${', v_filter)
     OR SUBSTRING_INDEX(v_filter, '/', 1) IN ('$share', '$queue')
     OR LENGTH(v_filter) - LENGTH(REPLACE(v_filter, '/', '')) > 31
     OR v_filter NOT REGEXP '^(#|([^/+#]*|[+])(/([^/+#]*|[+]))*(/#)?)$' THEN
    CALL _refuse(CONCAT('acl entry ', p_entry, ': not a topic filter (+ and # are whole levels, # the last; ${sub}',
                        ' and ${clientid}): ', COALESCE(QUOTE(LEFT(v_text, 20)), 'NULL')));
  END IF;
END;

DROP PROCEDURE IF EXISTS _acl_entry;
CREATE PROCEDURE _acl_entry(
  p_entry INT UNSIGNED,
  p_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_filters INT UNSIGNED,
  OUT p_members INT UNSIGNED)
  COMMENT 'refuses what is no {permission, action, topic}, or topics; how many filters and members it has'
BEGIN
  DECLARE v_at INT UNSIGNED DEFAULT 0;
  DECLARE v_permission LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT JSON_EXTRACT(p_json, '$.permission');
  DECLARE v_action LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT JSON_EXTRACT(p_json, '$.action');
  DECLARE v_topics LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT COALESCE(
    JSON_EXTRACT(p_json, '$.topics'), JSON_ARRAY(JSON_EXTRACT(p_json, '$.topic')));

  IF JSON_TYPE(p_json) <> 'OBJECT' THEN
    CALL _refuse(CONCAT('acl entry ', p_entry, ': not an object of permission, action and topic'));
  END IF;
  SET p_members = JSON_LENGTH(JSON_KEYS(p_json));
  IF p_members <> JSON_CONTAINS_PATH(p_json, 'one', '$.permission') + JSON_CONTAINS_PATH(p_json, 'one', '$.action')
                  + JSON_CONTAINS_PATH(p_json, 'one', '$.topic', '$.topics') OR p_members <> 3 THEN
    CALL _refuse(CONCAT('acl entry ', p_entry, ': it has permission, action and either topic or topics, and nothing else'));
  END IF;
  IF v_permission NOT IN ('"allow"', '"deny"') THEN
    CALL _refuse(CONCAT('acl entry ', p_entry, ': permission must be "allow" or "deny"'));
  END IF;
  IF v_action NOT IN ('"publish"', '"subscribe"', '"all"') THEN
    CALL _refuse(CONCAT('acl entry ', p_entry, ': action must be "publish", "subscribe" or "all"'));
  END IF;
  SET p_filters = IF(JSON_TYPE(v_topics) = 'ARRAY', JSON_LENGTH(v_topics), 0);
  IF p_filters = 0 THEN
    CALL _refuse(CONCAT('acl entry ', p_entry, ': topics must be an array of at least one filter'));
  END IF;
  WHILE v_at < LEAST(p_filters, 257) DO
    CALL _acl_filter(p_entry, JSON_EXTRACT(v_topics, CONCAT('$[', v_at, ']')));
    SET v_at = v_at + 1;
  END WHILE;
END;

DROP PROCEDURE IF EXISTS _acl_check;
CREATE PROCEDURE _acl_check(p_acl LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'refuses what a token could not have as its acl claim'
BEGIN
  DECLARE v_is_array TINYINT DEFAULT 0;
  DECLARE v_frame LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_at, v_filters, v_members, v_some INT UNSIGNED DEFAULT 0;
  DECLARE v_of, v_count INT UNSIGNED;

  IF LENGTH(p_acl) <= 65535 AND JSON_VALID(p_acl) THEN
    SET v_is_array = JSON_TYPE(p_acl) = 'ARRAY';
  END IF;
  IF NOT v_is_array THEN
    CALL _refuse('an acl is a JSON array of {permission, action, topic}, up to 65535 bytes');
  END IF;
  CALL _json_frame(p_acl, v_frame);
  SET v_count = JSON_LENGTH(p_acl);
  WHILE v_at < v_count AND v_filters <= 256 DO
    SET v_at = v_at + 1;
    CALL _acl_entry(v_at, JSON_EXTRACT(p_acl, CONCAT('$[', v_at - 1, ']')), v_some, v_of);
    SET v_filters = v_filters + v_some, v_members = v_members + v_of;
  END WHILE;
  IF v_filters > 256 THEN
    CALL _refuse(CONCAT('acl entry ', v_at, ': more than 256 filters'));
  END IF;
  IF LENGTH(v_frame) - LENGTH(REPLACE(v_frame, ':', '')) <> v_members THEN
    CALL _refuse('an entry of this acl has a member twice');
  END IF;
END;

DROP PROCEDURE IF EXISTS certificate_add;
CREATE PROCEDURE certificate_add(
  p_tenant LONGBLOB,
  p_fingerprint LONGBLOB,
  p_subject LONGBLOB,
  p_acl LONGBLOB)
  COMMENT 'who has this certificate is let in as the subject; acl: a JSON array, as in a token'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_fingerprint, p_subject, p_acl);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_fingerprint LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_fingerprint USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_acl LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_acl USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_fingerprint BINARY(32);
  DECLARE EXIT HANDLER FOR 3157 CALL _refuse('this JSON is nested too deeply'); -- MySQL's
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK AND NO CHAIN NO RELEASE;
    CALL _refuse('this certificate is there already: see the view certificates');
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _fingerprint(p_fingerprint, v_fingerprint);
  IF p_subject IS NULL OR p_subject = '' OR LENGTH(p_subject) > 255 THEN
    CALL _refuse(CONCAT('a subject has 1 to 255 bytes; this one has ', COALESCE(LENGTH(p_subject), 0)));
  END IF;
  CALL _acl_check(p_acl);
  CALL _begin();
  CALL _live_tenant(p_tenant, v_id);
  INSERT INTO client_certificate (fingerprint, tenant_id, subject, acl)
  VALUES (v_fingerprint, v_id, p_subject, p_acl);
  CALL _audit(v_id, 'certificate_add', LOWER(HEX(v_fingerprint)), NULL,
              JSON_OBJECT('subject', p_subject, 'acl', p_acl));
  CALL _certificates_changed();
END;

DROP PROCEDURE IF EXISTS certificate_remove;
CREATE PROCEDURE certificate_remove(
  p_tenant LONGBLOB,
  p_fingerprint LONGBLOB)
  COMMENT 'it is refused, and its connections end'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_fingerprint);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_fingerprint LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_fingerprint USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_fingerprint BINARY(32);
  DECLARE v_was LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _fingerprint(p_fingerprint, v_fingerprint);
  CALL _begin();
  CALL _live_tenant(p_tenant, v_id);
  SELECT JSON_OBJECT('subject', CONVERT(subject USING utf8mb4), 'acl', acl) INTO v_was
    FROM client_certificate WHERE fingerprint = v_fingerprint AND tenant_id = v_id FOR UPDATE;
  IF v_was IS NULL THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has no such certificate: see the view certificates'));
  END IF;
  DELETE FROM client_certificate WHERE fingerprint = v_fingerprint AND tenant_id = v_id;
  CALL _audit(v_id, 'certificate_remove', LOWER(HEX(v_fingerprint)), v_was, NULL);
  CALL _certificates_changed();
END;
