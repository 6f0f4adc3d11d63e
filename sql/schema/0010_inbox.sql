-- publish() in SQL: an application publishes in a transaction of its own, and what it published is there
-- if that commits. Unlike the other procedures publish() and publish_at() begin and end no transaction,
-- leave no row in `audit`, lock nothing that is there already and answer no rows, so that they can be called in a
-- trigger, and a transaction that stays open holds up nobody. A node moves what is committed into the
-- journal. Who may publish for which tenant is a row of `publisher`. A transaction that is SERIALIZABLE locks
-- what it reads, and is refused where the session says that it is one. Of one that does not say so (SET
-- TRANSACTION, once) no more is read than the rows of its own account, and then of a tenant it may publish for.

CREATE TABLE IF NOT EXISTS publisher (
  account        VARBINARY(128)    NOT NULL COMMENT 'who logs in, without the host',
  tenant         VARBINARY(64)     NOT NULL COMMENT 'whom it may publish for, by name, so that no other tenant need be read; empty = every one',
  host           VARBINARY(255)    NOT NULL COMMENT 'where it logs in from: LIKE',
  tenant_id      INT UNSIGNED      NOT NULL COMMENT 'the same; 0 = every one',
  created_at     DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  PRIMARY KEY (account, tenant, host),
  KEY publisher_tenant (tenant_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='which database account publishes for which tenant';

CREATE TABLE IF NOT EXISTS inbox (
  inbox_id       BIGINT UNSIGNED   NOT NULL AUTO_INCREMENT COMMENT 'the order of one transaction''s calls; among several it says nothing',
  tenant_id      INT UNSIGNED      NOT NULL,
  state          TINYINT UNSIGNED  NOT NULL DEFAULT 1 COMMENT '1 waiting, 2 set aside: it cannot become an event',
  account        VARBINARY(255)    NOT NULL COMMENT 'who published it, as it logged in',
  published_at   DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)) COMMENT 'UTC, of the call; it is seen from the COMMIT on',
  deliver_at     DATETIME(3)       NULL COMMENT 'UTC; null = at once',
  topic          VARBINARY(1024)   NOT NULL,
  content_type   VARBINARY(255)    NOT NULL DEFAULT '',
  attributes     LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL COMMENT 'JSON object of texts, as the caller gave it',
  payload        LONGBLOB          NOT NULL,
  reason         VARBINARY(255)    NOT NULL DEFAULT '' COMMENT 'set aside: why',
  aside_at       DATETIME(3)       NULL COMMENT 'UTC; set aside: since when',
  bytes          INT UNSIGNED      AS (LENGTH(payload)) STORED,
  PRIMARY KEY (inbox_id),
  KEY inbox_tenant (state, tenant_id, inbox_id, bytes, deliver_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='published in SQL, on its way into the journal';

INSERT INTO role (role) VALUES (3) ON DUPLICATE KEY UPDATE role = VALUES(role);

-- ---- who may publish ------------------------------------------------------------------------------

DROP PROCEDURE IF EXISTS _publisher_name;
CREATE PROCEDURE _publisher_name(
  p_account LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_user LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_host LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'USER, or USER@HOST, where USER may have an @ of its own'
BEGIN
  SET p_host = IF(LOCATE('@', p_account), SUBSTRING_INDEX(p_account, '@', -1), '%');
  SET p_user = IF(LOCATE('@', p_account),
                  LEFT(p_account, CHAR_LENGTH(p_account) - CHAR_LENGTH(p_host) - 1), p_account);
  IF p_user IS NULL OR p_user = '' OR LENGTH(p_user) > 128 OR p_host = '' OR LENGTH(p_host) > 255 THEN
    CALL _refuse(CONCAT('an account is USER or USER@HOST, not ',
                        COALESCE(QUOTE(LEFT(p_account, 60)), 'NULL')));
  END IF;
  SET p_host = LOWER(p_host);
END;

DROP PROCEDURE IF EXISTS publisher_allow;
CREATE PROCEDURE publisher_allow(
  p_account LONGBLOB,
  p_tenant LONGBLOB)
  COMMENT 'this database account may publish() for this tenant; tenant null = for every one'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_account, p_tenant);
  DECLARE p_account LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_account USING utf8mb4);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED DEFAULT 0;
  DECLARE v_user, v_host LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR 1205 BEGIN
    ROLLBACK AND NO CHAIN NO RELEASE;
    RESIGNAL SET MESSAGE_TEXT = 'an application''s transaction is open and locks this: end it, see docs/admins.md, or try again';
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _publisher_name(p_account, v_user, v_host);
  CALL _begin();
  IF p_tenant IS NOT NULL THEN
    CALL _kept_tenant(p_tenant, v_tenant);
  END IF;
  INSERT INTO publisher (account, tenant, host, tenant_id)
  VALUES (v_user, COALESCE(p_tenant, ''), v_host, v_tenant)
    ON DUPLICATE KEY UPDATE account = v_user;
  CALL _audit(v_tenant, 'publisher_allow', p_account, NULL,
              JSON_OBJECT('account', v_user, 'host', v_host, 'tenant', p_tenant));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS publisher_deny;
CREATE PROCEDURE publisher_deny(
  p_account LONGBLOB,
  p_tenant LONGBLOB)
  COMMENT 'the end of what publisher_allow with the same arguments allowed'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_account, p_tenant);
  DECLARE p_account LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_account USING utf8mb4);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED DEFAULT 0;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE v_user, v_host LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _publisher_name(p_account, v_user, v_host);
  CALL _begin();
  IF p_tenant IS NOT NULL THEN
    CALL _tenant(p_tenant, v_tenant, v_state);
  END IF;
  DELETE FROM publisher
   WHERE account = CAST(v_user AS BINARY) AND tenant = CAST(COALESCE(p_tenant, '') AS BINARY)
     AND host = CAST(v_host AS BINARY);
  IF ROW_COUNT() = 0 THEN
    CALL _refuse(CONCAT('account ', QUOTE(LEFT(p_account, 40)), ' was not allowed that: see the view',
                        ' publishers'));
  END IF;
  CALL _audit(v_tenant, 'publisher_deny', p_account,
              JSON_OBJECT('account', v_user, 'host', v_host, 'tenant', p_tenant), NULL);
  COMMIT AND NO CHAIN NO RELEASE;
END;

-- ---- publish --------------------------------------------------------------------------------------

DROP PROCEDURE IF EXISTS _publish_attributes;
CREATE PROCEDURE _publish_attributes(p_attributes LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'refuses what is not a JSON object of texts'
BEGIN
  DECLARE v_names, v_values LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_at INT UNSIGNED DEFAULT 0;
  DECLARE v_count INT UNSIGNED;
  DECLARE EXIT HANDLER FOR 3157 CALL _refuse('this JSON is nested too deeply'); -- MySQL's

  IF LENGTH(p_attributes) > 65535 THEN
    CALL _refuse(CONCAT('attributes have up to 65535 bytes, not ', LENGTH(p_attributes)));
  END IF;
  IF NOT JSON_VALID(p_attributes) OR JSON_TYPE(p_attributes) <> 'OBJECT' THEN
    CALL _refuse('attributes must be NULL or a JSON object of texts, as {"type": "order.created", "key": "42"}');
  END IF;
  IF LOCATE(CONCAT(CHAR(92), 'u0000'), p_attributes) THEN
    CALL _refuse('attributes contain U+0000');
  END IF;
  SET v_names = JSON_KEYS(p_attributes), v_values = JSON_EXTRACT(p_attributes, '$.*');
  SET v_count = COALESCE(JSON_LENGTH(v_values), 0);
  IF v_count > 100 THEN
    CALL _refuse(CONCAT('an event has up to 100 attributes, not ', v_count));
  END IF;
  WHILE v_at < v_count DO
    IF JSON_TYPE(JSON_EXTRACT(v_values, CONCAT('$[', v_at, ']'))) <> 'STRING' THEN
      CALL _refuse('every attribute is a text: {"n": "1"}, not {"n": 1}');
    END IF;
    IF JSON_UNQUOTE(JSON_EXTRACT(v_names, CONCAT('$[', v_at, ']'))) LIKE 'leat-%' THEN
      CALL _refuse('attributes leat-.. mean nothing here: the ordering key is "key", and publish_at() says when');
    END IF;
    SET v_at = v_at + 1;
  END WHILE;
END;

-- Who is not allowed is told the same of a tenant that is there and of one that is not, before anything of a
-- tenant is read. In the session only those settings are looked at that would do harm to others: SET insert_id
-- (the last there is, and no row can be made any more), and unique_checks = 0 (MariaDB locks a table that is
-- empty for the transaction that fills it), which is put back.
DROP PROCEDURE IF EXISTS _publish;
CREATE PROCEDURE _publish(
  p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_topic LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_content_type LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_payload LONGBLOB,
  p_attributes LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_deliver_at DATETIME(3))
  COMMENT 'publish() and publish_at()'
BEGIN
  DECLARE v_login LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT USER();
  DECLARE v_host LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT SUBSTRING_INDEX(v_login, '@', -1);
  DECLARE v_user LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin
    DEFAULT LEFT(v_login, CHAR_LENGTH(v_login) - CHAR_LENGTH(v_host) - 1);
  DECLARE v_bytes BIGINT UNSIGNED DEFAULT COALESCE(LENGTH(p_payload), 0);
  DECLARE v_levels INT UNSIGNED DEFAULT LENGTH(p_topic) - LENGTH(REPLACE(p_topic, '/', '')) + 1;
  DECLARE v_insert_id, v_inbox BIGINT UNSIGNED DEFAULT LAST_INSERT_ID();
  DECLARE v_now DATETIME(3) DEFAULT -- also where SET timestamp has put the caller's clock elsewhere, which stays so
    UTC_TIMESTAMP(6) + INTERVAL TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6)) MICROSECOND;
  DECLARE v_tenant, v_allowed, v_max_bytes INT UNSIGNED;
  DECLARE v_state, v_full TINYINT UNSIGNED;
  DECLARE v_unique TINYINT UNSIGNED DEFAULT @@unique_checks;
  DECLARE v_isolation VARCHAR(32) CHARSET utf8mb4
    DEFAULT /*!80000 @@SESSION.transaction_isolation */ /*M! @@SESSION.tx_isolation */;

  IF v_isolation = 'SERIALIZABLE' THEN
    CALL _refuse('SERIALIZABLE locks what publish() reads: SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ');
  END IF;
  IF @@insert_id <> 0 THEN
    CALL _refuse('this session has SET insert_id, which is for replication alone: connect anew');
  END IF;
  IF p_topic IS NULL OR p_topic = '' THEN
    CALL _refuse('topic is empty');
  END IF;
  CALL _well_formed(p_topic);
  CALL _well_formed(p_content_type);
  IF LENGTH(p_topic) > 1024 THEN
    CALL _refuse(CONCAT('topic has ', LENGTH(p_topic), ' bytes; at most 1024 are allowed'));
  END IF;
  IF LOCATE(x'00', CAST(p_topic AS BINARY)) THEN
    CALL _refuse('topic contains U+0000');
  END IF;
  IF v_levels > 32 THEN
    CALL _refuse(CONCAT('topic has ', v_levels, ' levels; at most 32 are allowed'));
  END IF;
  IF LOCATE('+', p_topic) OR LOCATE('#', p_topic) THEN
    CALL _refuse(CONCAT('topic ', QUOTE(LEFT(p_topic, 60)),
                        ' contains a wildcard; + and # are for filters'));
  END IF;
  IF p_topic LIKE '$delayed/%' THEN
    CALL _refuse('$delayed/.. is for MQTT: publish_at() says when');
  END IF;
  IF p_topic LIKE '$%' THEN
    CALL _refuse(CONCAT('topic ', QUOTE(LEFT(p_topic, 60)), ' starts with $, which is kept for the server'));
  END IF;
  IF LENGTH(p_content_type) > 255 OR LOCATE(x'00', CAST(p_content_type AS BINARY)) THEN
    CALL _refuse('a content type has up to 255 bytes, and no U+0000');
  END IF;
  IF v_bytes + 1048576 > @@GLOBAL.max_allowed_packet THEN
    CALL _refuse(CONCAT('the payload has ', v_bytes, ' bytes; max_allowed_packet leaves room for ',
                        @@GLOBAL.max_allowed_packet - 1048576));
  END IF;
  IF p_attributes IS NOT NULL THEN
    CALL _publish_attributes(p_attributes);
  END IF;
  IF p_deliver_at < '1970-01-01' THEN -- what is no time is 0000-00-00 where the caller's session is not strict
    CALL _refuse('deliver_at is no time, or before 1970: say it as 2030-01-31 12:00:00, UTC');
  END IF;
  IF p_deliver_at > v_now + INTERVAL 366 DAY THEN
    CALL _refuse(CONCAT('deliver_at ', p_deliver_at, ' (UTC) is more than 366 days ahead'));
  END IF;

  SELECT COUNT(*), COALESCE(MAX(tenant_id), 0) INTO v_allowed, v_tenant
    FROM publisher
   WHERE account = CAST(v_user AS BINARY) AND tenant IN (CAST(p_tenant AS BINARY), '')
     AND LOWER(v_host) LIKE CONVERT(host USING utf8mb4);
  IF v_allowed = 0 THEN
    CALL _refuse(CONCAT('account ', LEFT(v_login, 40), ' may not publish for tenant ',
                        COALESCE(QUOTE(LEFT(p_tenant, 40)), 'NULL'), ': see publisher_allow'));
  END IF;
  IF v_tenant = 0 THEN -- every one, and there may be none of this name
    SELECT tenant_id INTO v_tenant FROM tenant WHERE name = CAST(p_tenant AS BINARY);
  END IF;
  IF v_tenant = 0 THEN
    CALL _refuse(CONCAT('there is no tenant ', COALESCE(QUOTE(LEFT(p_tenant, 63)), 'NULL')));
  END IF;
  SELECT state, max_event_bytes, full_since IS NOT NULL INTO v_state, v_max_bytes, v_full
    FROM tenant WHERE tenant_id = v_tenant;
  IF v_state <> 1 THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' is ', ELT(v_state, '', 'suspended', 'deleted')));
  END IF;
  IF v_full THEN
    CALL _refuse(CONCAT('the tenant''s stored events are at their limit, and a queue that they are kept',
                        ' for has not processed them'));
  END IF;
  IF v_max_bytes > 0 AND v_bytes > v_max_bytes THEN
    CALL _refuse(CONCAT('the payload has ', v_bytes, ' bytes; this tenant''s events may have ',
                        v_max_bytes));
  END IF;

  BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN SET unique_checks = v_unique; RESIGNAL; END;

    IF NOT v_unique THEN
      SET unique_checks = 1;
    END IF;
    SET v_inbox = LAST_INSERT_ID(0);
    INSERT INTO inbox (tenant_id, account, published_at, deliver_at, topic, content_type, attributes, payload)
    VALUES (v_tenant, SUBSTRING(CAST(v_login AS BINARY), 1, 255), v_now, p_deliver_at, p_topic,
            COALESCE(p_content_type, ''), p_attributes, COALESCE(p_payload, ''));
    SET v_inbox = LAST_INSERT_ID();
    IF NOT v_unique THEN
      SET unique_checks = v_unique;
    END IF;
  END;
  SET v_insert_id = LAST_INSERT_ID(v_insert_id); -- the caller's stays what it was
  IF v_inbox = 0 THEN -- MySQL's SET insert_id = 0, which nothing shows beforehand
    DELETE FROM inbox WHERE inbox_id = 0;
    CALL _refuse('this session has SET insert_id, which is for replication alone: try again');
  END IF;
END;

DROP PROCEDURE IF EXISTS publish;
CREATE PROCEDURE publish(
  p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_topic LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_content_type LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_payload LONGBLOB,
  p_attributes LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'an event, if the caller''s transaction commits; attributes: JSON object of texts, or null'
BEGIN
  CALL _publish(p_tenant, p_topic, p_content_type, p_payload, p_attributes, NULL);
END;

DROP PROCEDURE IF EXISTS publish_at;
CREATE PROCEDURE publish_at(
  p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_topic LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_content_type LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_payload LONGBLOB,
  p_attributes LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_deliver_at DATETIME(3))
  COMMENT 'the same, delivered at that time (UTC), as UTC_TIMESTAMP() + INTERVAL 1 HOUR'
BEGIN
  IF p_deliver_at IS NULL THEN
    CALL _refuse('deliver_at is NULL: publish() delivers at once');
  END IF;
  CALL _publish(p_tenant, p_topic, p_content_type, p_payload, p_attributes, p_deliver_at);
END;

-- ---- what was set aside ---------------------------------------------------------------------------

DROP PROCEDURE IF EXISTS _inbox_change;
CREATE PROCEDURE _inbox_change(
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_id DECIMAL(65,20))
  COMMENT 'inbox_retry, inbox_discard'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _between('an inbox_id', p_id, 1, 18446744073709551615);
  CALL _begin();
  SELECT tenant_id INTO v_tenant FROM inbox WHERE inbox_id = p_id AND state = 2;
  CALL _unmoved(v_tenant);
  SET v_tenant = NULL;
  BEGIN
    DECLARE EXIT HANDLER FOR 1205
      RESIGNAL SET MESSAGE_TEXT = 'the event is locked by another transaction: try again when that has ended, see docs/admins.md';

    SELECT tenant_id, JSON_OBJECT('state', 'set aside', 'topic', CONVERT(topic USING utf8mb4), 'reason',
                                  CONVERT(reason USING utf8mb4))
      INTO v_tenant, v_before
      FROM inbox WHERE inbox_id = p_id AND state = 2 FOR UPDATE;
  END;
  IF v_tenant IS NULL THEN
    CALL _refuse(CONCAT('no event ', CAST(p_id AS UNSIGNED), ' is set aside: see the view inbox_events'));
  END IF;
  IF p_action = 'inbox_discard' THEN
    DELETE FROM inbox WHERE inbox_id = p_id;
  ELSE
    UPDATE inbox SET state = 1, reason = '', aside_at = NULL WHERE inbox_id = p_id;
  END IF;
  CALL _audit(v_tenant, p_action, CAST(p_id AS UNSIGNED), v_before,
              IF(p_action = 'inbox_retry', JSON_OBJECT('state', 'waiting'), NULL));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS inbox_retry;
CREATE PROCEDURE inbox_retry(p_inbox_id DECIMAL(65,20))
  COMMENT 'an event that was set aside is tried again'
BEGIN
  CALL _inbox_change('inbox_retry', p_inbox_id);
END;

DROP PROCEDURE IF EXISTS inbox_discard;
CREATE PROCEDURE inbox_discard(p_inbox_id DECIMAL(65,20))
  COMMENT 'an event that was set aside is removed for good'
BEGIN
  CALL _inbox_change('inbox_discard', p_inbox_id);
END;

DROP PROCEDURE IF EXISTS _inbox_change_all;
CREATE PROCEDURE _inbox_change_all(
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_tenant LONGBLOB,
  p_reason LONGBLOB,
  p_limit DECIMAL(65,20),
  OUT p_done BIGINT,
  OUT p_left TINYINT UNSIGNED)
  COMMENT 'inbox_retry_all, inbox_discard_all'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_reason);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_reason LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_reason USING utf8mb4);
  DECLARE v_tenant, v_limit INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  IF p_limit IS NOT NULL THEN
    CALL _between('limit', p_limit, 1, 4294967295);
  END IF;
  SET v_limit = LEAST(COALESCE(p_limit, 10000), 10000);
  CALL _begin();
  CALL _tenant(p_tenant, v_tenant, v_state);
  CALL _unmoved(v_tenant);
  BEGIN
    DECLARE EXIT HANDLER FOR 1205
      RESIGNAL SET MESSAGE_TEXT = 'one of them is locked by another transaction: try again when that has ended, see docs/admins.md';

    IF p_action = 'inbox_discard_all' THEN
      DELETE FROM inbox
       WHERE state = 2 AND tenant_id = v_tenant AND (p_reason IS NULL OR reason LIKE CAST(p_reason AS BINARY))
       ORDER BY inbox_id LIMIT v_limit;
    ELSE
      UPDATE inbox SET state = 1, reason = '', aside_at = NULL
       WHERE state = 2 AND tenant_id = v_tenant AND (p_reason IS NULL OR reason LIKE CAST(p_reason AS BINARY))
       ORDER BY inbox_id LIMIT v_limit;
    END IF;
    SET p_done = ROW_COUNT();
  END;
  SELECT COUNT(*) INTO p_left
    FROM (SELECT 1 FROM inbox WHERE state = 2 AND tenant_id = v_tenant
             AND (p_reason IS NULL OR reason LIKE CAST(p_reason AS BINARY)) LIMIT 1) x;
  IF p_done > 0 THEN
    CALL _audit(v_tenant, p_action, p_tenant, JSON_OBJECT('state', 'set aside', 'reason', p_reason, 'events', p_done),
                IF(p_action = 'inbox_retry_all', JSON_OBJECT('state', 'waiting'), NULL));
  END IF;
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS inbox_retry_all;
CREATE PROCEDURE inbox_retry_all(
  p_tenant LONGBLOB,
  p_reason LONGBLOB,
  p_limit DECIMAL(65,20))
  COMMENT 'those of a tenant set aside with a reason LIKE p_reason (null = any), the oldest p_limit (null = all); again while it answers left = 1'
BEGIN
  DECLARE v_done BIGINT;
  DECLARE v_left TINYINT UNSIGNED;

  CALL _inbox_change_all('inbox_retry_all', p_tenant, p_reason, p_limit, v_done, v_left);
  SELECT v_done AS retried, v_left AS `left`;
END;

DROP PROCEDURE IF EXISTS inbox_discard_all;
CREATE PROCEDURE inbox_discard_all(
  p_tenant LONGBLOB,
  p_reason LONGBLOB,
  p_limit DECIMAL(65,20))
  COMMENT 'the same, removed for good'
BEGIN
  DECLARE v_done BIGINT;
  DECLARE v_left TINYINT UNSIGNED;

  CALL _inbox_change_all('inbox_discard_all', p_tenant, p_reason, p_limit, v_done, v_left);
  SELECT v_done AS discarded, v_left AS `left`;
END;

-- ---- views ----------------------------------------------------------------------------------------

-- What a node has not moved yet, and what it could not. published_at is the time of the call.
CREATE OR REPLACE VIEW inbox_events AS SELECT * FROM (
SELECT i.inbox_id                                        AS inbox_id,
       i.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       ELT(i.state, 'waiting', 'set aside')              AS state,
       CONVERT(i.reason USING utf8mb4)                   AS reason,
       i.aside_at                                        AS aside_at,
       CONVERT(i.account USING utf8mb4)                  AS account,
       i.published_at                                    AS published_at,
       i.deliver_at                                      AS deliver_at,
       CONVERT(i.topic USING utf8mb4)                    AS topic,
       CONVERT(i.content_type USING utf8mb4)             AS content_type,
       i.attributes                                      AS attributes,
       i.payload                                         AS data,
       CONVERT(i.payload USING utf8mb4)                  AS payload
  FROM inbox i
  JOIN tenant t ON t.tenant_id = i.tenant_id) v;

-- Who has something waiting, and since when: above its rate, or more than is moved at once. A step in an
-- index for each tenant, however much waits: MySQL sorts unless all of the index's columns are named.
CREATE OR REPLACE VIEW inbox_lag AS SELECT * FROM (
SELECT STRAIGHT_JOIN
       t.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       i.inbox_id                                        AS inbox_id,
       i.published_at                                    AS since,
       TIMESTAMPDIFF(SECOND, i.published_at, UTC_TIMESTAMP(3)) AS lag_s
  FROM tenant t
  JOIN inbox i FORCE INDEX (PRIMARY)
    ON i.inbox_id = (SELECT x.inbox_id FROM inbox x FORCE INDEX (inbox_tenant)
                      WHERE x.state = 1 AND x.tenant_id = t.tenant_id
                      ORDER BY x.state, x.tenant_id, x.inbox_id LIMIT 1)) v;

CREATE OR REPLACE VIEW publishers AS SELECT * FROM (
SELECT CONVERT(p.account USING utf8mb4)                  AS account,
       CONVERT(p.host USING utf8mb4)                     AS host,
       p.tenant_id                                       AS tenant_id,
       COALESCE(CONVERT(t.name USING utf8mb4), '(every tenant)') AS tenant,
       p.created_at                                      AS created_at
  FROM publisher p
  LEFT JOIN tenant t ON t.tenant_id = p.tenant_id) v;
