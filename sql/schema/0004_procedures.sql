-- What the procedures of the admin console stand on, and those for tenants. In all of them:
--   · A procedure is one transaction: it does everything it says, with a row in `audit`, or nothing. It
--     ends a transaction that the caller has open.
--   · It runs with the rights of the account that migrated, so that who may call it need not be able to
--     write a table. Those whose names begin with _ are for the others; no role may call them.
--   · What it refuses it answers with SQLSTATE 45000 and a text: what was wrong, what is allowed.
--   · No statement is put together from what the caller gave.
--   · Arguments are of the largest types, so that what is too long or too large is refused like anything
--     else, and numbers have a fraction, which would be rounded otherwise; tests/e2e/test_hostile_sql.py
--     tries each of them.
--   · Texts come as bytes: as text, one that is no UTF-8 would be cut short before the call begins where
--     the session is not strict, and 'acme' is not who was meant. The first declarations make text of them
--     under the same names, and _utf8_check looks at the bytes. (Those of publish() are text, in whichever
--     character set an application has.)
--   · Nothing in the session matters: not its sql_mode, time zone or SET timestamp, nor its completion_type,
--     which COMMIT and ROLLBACK say themselves.
-- No functions: with a binlog MySQL lets only a superuser create one.

DROP PROCEDURE IF EXISTS _refuse;
CREATE PROCEDURE _refuse(p_text LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'the end of a call that may not be'
BEGIN
  DECLARE v_text VARCHAR(128) CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT LEFT(p_text, 128);

  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v_text;
END;

-- An id that the session forces on the next row made (SET insert_id) could be the last there is, and nobody
-- could make a row any more; or 0, which is nobody's. MySQL cannot be told to forget it, nor asked whether it
-- is 0: a row that is taken back at once uses it up.
DROP PROCEDURE IF EXISTS _no_insert_id;
CREATE PROCEDURE _no_insert_id()
  COMMENT 'of SET insert_id nothing is left, or it is refused'
BEGIN
  DECLARE v_stays TINYINT UNSIGNED DEFAULT 0;
  DECLARE EXIT HANDLER FOR 1205
    RESIGNAL SET MESSAGE_TEXT = 'a schedule is locked by another transaction: try again when that has ended, see docs/admins.md';

  BEGIN
    DECLARE CONTINUE HANDLER FOR SQLEXCEPTION SET v_stays = 1;

    SET insert_id = DEFAULT;
  END;
  IF v_stays AND @@insert_id <> 0 THEN
    CALL _refuse('this session has SET insert_id, which is for replication alone: connect anew');
  ELSEIF v_stays THEN
    START TRANSACTION READ WRITE;
    INSERT INTO schedule (tenant_id, name, cron, topic, payload) VALUES (0, CONNECTION_ID(), '', '', '');
    ROLLBACK AND NO CHAIN NO RELEASE;
  END IF;
END;

DROP PROCEDURE IF EXISTS _begin;
CREATE PROCEDURE _begin()
  COMMENT 'the transaction of a call, and its time; REPEATABLE READ would lock gaps that nodes insert into'
BEGIN
  COMMIT AND NO CHAIN NO RELEASE;
  CALL _no_insert_id();
  BEGIN
    DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; -- secure_timestamp: then nobody can have set it

    SET timestamp = DEFAULT; -- a session's own would date what is done here
  END;
  BEGIN
    DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; -- the rights to set what nobody can have set either

    SET unique_checks = 1; -- without them a name may be there twice, and MariaDB locks tables that are empty
    SET SESSION auto_increment_increment = DEFAULT, SESSION auto_increment_offset = DEFAULT; -- ids are few
  END;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION READ WRITE;
END;

DROP PROCEDURE IF EXISTS _well_formed;
CREATE PROCEDURE _well_formed(p_text LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'refuses what MariaDB takes for UTF-8 and nobody else does: the surrogates, ED A0 .. ED BF'
BEGIN
  DECLARE v_bytes LONGTEXT CHARSET latin1 COLLATE latin1_bin
    DEFAULT CONVERT(CAST(p_text AS BINARY) USING latin1);
  DECLARE v_surrogate VARCHAR(8) CHARSET latin1 COLLATE latin1_bin
    DEFAULT CONVERT(UNHEX('ED5BA02DBF5D') USING latin1); -- ED [ A0 - BF ]

  IF LOCATE(CONVERT(x'ED' USING latin1), v_bytes) AND v_bytes REGEXP v_surrogate THEN -- the first is quick
    CALL _refuse('this is no UTF-8: it has surrogates (U+D800 to U+DFFF)');
  END IF;
END;

DROP PROCEDURE IF EXISTS _utf8_check;
CREATE PROCEDURE _utf8_check(p_texts LONGBLOB)
  COMMENT 'the first of a call: all its texts, separated by spaces; refuses what is no UTF-8'
BEGIN
  SET SESSION sql_big_selects = 1; -- with a small max_join_size a call could only fail
  /*M! SET SESSION default_regex_flags = ''; */ -- the checks are patterns: MULTILINE would let a second line pass
  IF p_texts IS NULL THEN
    CALL _refuse('these texts are longer than max_allowed_packet');
  END IF;
  IF NOT COALESCE(CAST(CONVERT(p_texts USING utf8mb4) AS BINARY) = p_texts, 0) THEN
    CALL _refuse('an argument is no UTF-8 text: SET NAMES utf8mb4');
  END IF;
  CALL _well_formed(p_texts);
END;

DROP PROCEDURE IF EXISTS _audit;
CREATE PROCEDURE _audit(
  p_tenant_id INT UNSIGNED,
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_target LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_after LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'the row that every change leaves; before and after are JSON or null'
BEGIN
  INSERT INTO audit (who, tenant_id, action, target, detail)
  VALUES (SUBSTRING(CAST(USER() AS BINARY), 1, 255), p_tenant_id, p_action,
          SUBSTRING(CAST(p_target AS BINARY), 1, 1024),
          CONCAT('{"before":', COALESCE(p_before, 'null'), ',"after":', COALESCE(p_after, 'null'),
                 '}'));
END;

DROP PROCEDURE IF EXISTS _changed;
CREATE PROCEDURE _changed()
  COMMENT 'the last of a transaction that changes tenants or keys: nodes look at this counter'
BEGIN
  DECLARE EXIT HANDLER FOR 1205
    RESIGNAL SET MESSAGE_TEXT = 'another transaction that changes tenants is open: try again when it has ended';

  UPDATE change_counter SET changes = changes + 1 WHERE id = 1;
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS _tenant;
CREATE PROCEDURE _tenant(
  p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED,
  OUT p_state TINYINT UNSIGNED)
  COMMENT 'a tenant, locked; 3 = deleted'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE EXIT HANDLER FOR 1205
    RESIGNAL SET MESSAGE_TEXT = 'a transaction that is open holds the tenant''s row: end it, see docs/admins.md, or try again';

  SELECT tenant_id, state INTO v_id, v_state
    FROM tenant WHERE name = CAST(p_name AS BINARY) FOR UPDATE;
  IF v_id IS NULL THEN
    CALL _refuse(CONCAT('there is no tenant ', COALESCE(QUOTE(LEFT(p_name, 63)), 'NULL'),
                        ': see the view tenants'));
  END IF;
  SET p_tenant_id = v_id, p_state = v_state;
END;

DROP PROCEDURE IF EXISTS _kept_tenant;
CREATE PROCEDURE _kept_tenant(
  p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED)
  COMMENT 'a tenant that is not deleted, locked; for what is not carried when it is moved'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;

  CALL _tenant(p_name, v_id, v_state);
  IF v_state = 3 THEN
    CALL _refuse(CONCAT('there is no tenant ', p_name, ' any more: it was deleted'));
  END IF;
  SET p_tenant_id = v_id;
END;

-- What an export has copied, or an import has begun to store, stays as it is: else the checksums would
-- differ, or an import find its place taken. An import that is complete may be changed before it is resumed.
DROP PROCEDURE IF EXISTS _unmoved;
CREATE PROCEDURE _unmoved(p_tenant_id INT UNSIGNED)
  COMMENT 'locks a tenant, and refuses one that is being moved'
BEGIN
  DECLARE v_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_direction TINYINT UNSIGNED;

  SELECT name_text INTO v_name FROM tenant WHERE tenant_id = p_tenant_id FOR UPDATE;
  SELECT direction INTO v_direction FROM tenant_move
   WHERE tenant_id = p_tenant_id AND (direction = 1 OR state = 1);
  IF v_direction = 1 THEN
    CALL _refuse(CONCAT('tenant ', v_name, ' is frozen by leat tenant export; tenant_resume ends that'));
  END IF;
  IF v_direction = 2 THEN
    CALL _refuse(CONCAT('tenant ', v_name, ' is not here completely: leat tenant import first'));
  END IF;
END;

DROP PROCEDURE IF EXISTS _live_tenant;
CREATE PROCEDURE _live_tenant(
  p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED)
  COMMENT 'a tenant that may be changed, locked: neither deleted nor being moved'
BEGIN
  DECLARE v_id INT UNSIGNED;

  CALL _kept_tenant(p_name, v_id);
  CALL _unmoved(v_id);
  SET p_tenant_id = v_id;
END;

-- A JSON text without its strings shows how often it says a name: the servers' functions take the first
-- or the last of two members of one name, and the nodes' parser neither. What is a string is said as
-- strictly as that parser says it: no raw control characters, no lone surrogates, no U+0000.
DROP PROCEDURE IF EXISTS _json_frame;
CREATE PROCEDURE _json_frame(
  p_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_frame LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'a JSON text with an s for every string'
BEGIN
  SET p_frame = REGEXP_REPLACE(p_json, CONCAT(
    '"(?:[^"\\\\\\x00-\\x1f]++|\\\\["\\\\/bfnrt]|\\\\u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4}',
    '|\\\\u[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2})*+"'), 's');
  IF p_frame IS NULL OR LOCATE('"', p_frame) THEN
    CALL _refuse('this JSON has a string that nodes do not read: see its escapes, control characters, U+0000');
  END IF;
END;

DROP PROCEDURE IF EXISTS _between;
CREATE PROCEDURE _between(
  p_what LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_value DECIMAL(65,20),
  p_least DECIMAL(65,0),
  p_most DECIMAL(65,0))
  COMMENT 'refuses a number that is missing, out of bounds or not whole'
BEGIN
  IF p_value IS NULL OR p_value < p_least OR p_value > p_most OR p_value <> FLOOR(p_value) THEN
    CALL _refuse(CONCAT(p_what, ' must be ', IF(p_value <> FLOOR(p_value), 'a whole number, ', ''), p_least,
                        ' to ', p_most, ', not ',
                        COALESCE(TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM p_value)), 'NULL')));
  END IF;
END;

-- ---- tenants --------------------------------------------------------------------------------------

DROP PROCEDURE IF EXISTS tenant_create;
CREATE PROCEDURE tenant_create(
  p_name LONGBLOB,
  p_weight DECIMAL(65,20),
  p_partitions DECIMAL(65,20))
  COMMENT 'a new tenant; weight (its share when tenants queue) and partitions: null = 1'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_name);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_partition INT UNSIGNED DEFAULT 0;
  DECLARE v_weight DECIMAL(65,20) DEFAULT COALESCE(p_weight, 1);
  DECLARE v_partitions DECIMAL(65,20) DEFAULT COALESCE(p_partitions, 1);
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK AND NO CHAIN NO RELEASE;
    CALL _refuse(CONCAT('tenant name ', p_name, ' is taken, or was: names are never reused'));
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  IF p_name IS NULL OR p_name = '' OR LENGTH(p_name) > 63 OR p_name REGEXP '[^a-z0-9-]'
     OR p_name LIKE '-%' THEN
    CALL _refuse(CONCAT('a tenant name is 1 to 63 of a-z, 0-9 and -, not starting with -: ',
                        COALESCE(QUOTE(LEFT(p_name, 63)), 'NULL')));
  END IF;
  CALL _between('weight', v_weight, 1, 65535);
  CALL _between('partitions', v_partitions, 1, 64);
  CALL _begin();
  INSERT INTO tenant (name, weight, partitions) VALUES (p_name, v_weight, v_partitions);
  SET v_id = LAST_INSERT_ID();
  WHILE v_partition < v_partitions DO
    INSERT INTO head (tenant_id, partition_id, next_seq, bytes) VALUES (v_id, v_partition, 1, 0)
      ON DUPLICATE KEY UPDATE next_seq = next_seq;
    SET v_partition = v_partition + 1;
  END WHILE;
  CALL _audit(v_id, 'tenant_create', p_name, NULL,
              JSON_OBJECT('weight', CAST(v_weight AS UNSIGNED), 'partitions', CAST(v_partitions AS UNSIGNED)));
  CALL _changed();
END;

DROP PROCEDURE IF EXISTS _tenant_set_state;
CREATE PROCEDURE _tenant_set_state(
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name LONGBLOB,
  p_state TINYINT UNSIGNED)
  COMMENT 'suspend, resume, delete'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_name);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _kept_tenant(p_name, v_id);
  SELECT state INTO v_state FROM tenant WHERE tenant_id = v_id;
  IF p_state = 1 THEN
    IF EXISTS (SELECT 1 FROM tenant_move WHERE tenant_id = v_id AND direction = 2 AND state = 1) THEN
      CALL _refuse(CONCAT('tenant ', p_name, ' is not here completely: leat tenant import first'));
    END IF;
    DELETE FROM tenant_move WHERE tenant_id = v_id;
  END IF;
  UPDATE tenant SET state = p_state WHERE tenant_id = v_id;
  CALL _audit(v_id, p_action, p_name, JSON_OBJECT('state', ELT(v_state, 'active', 'suspended')),
              JSON_OBJECT('state', ELT(p_state, 'active', 'suspended', 'deleted')));
  CALL _changed();
END;

DROP PROCEDURE IF EXISTS tenant_suspend;
CREATE PROCEDURE tenant_suspend(p_name LONGBLOB)
  COMMENT 'its connections are ended and nobody is let in; everything is kept'
BEGIN
  CALL _tenant_set_state('tenant_suspend', p_name, 2);
END;

DROP PROCEDURE IF EXISTS tenant_resume;
CREATE PROCEDURE tenant_resume(p_name LONGBLOB)
  COMMENT 'after tenant_suspend'
BEGIN
  CALL _tenant_set_state('tenant_resume', p_name, 1);
END;

DROP PROCEDURE IF EXISTS tenant_delete;
CREATE PROCEDURE tenant_delete(p_name LONGBLOB)
  COMMENT 'for good: nobody is let in, its name stays taken; tenant_purge_step removes its data'
BEGIN
  CALL _tenant_set_state('tenant_delete', p_name, 3);
END;

DROP PROCEDURE IF EXISTS tenant_set_weight;
CREATE PROCEDURE tenant_set_weight(
  p_name LONGBLOB,
  p_weight DECIMAL(65,20))
  COMMENT 'its share relative to other tenants wherever tenants queue'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_name);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_before INT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _between('weight', p_weight, 1, 65535);
  CALL _begin();
  CALL _live_tenant(p_name, v_id);
  SELECT weight INTO v_before FROM tenant WHERE tenant_id = v_id;
  UPDATE tenant SET weight = p_weight WHERE tenant_id = v_id;
  CALL _audit(v_id, 'tenant_set_weight', p_name, JSON_OBJECT('weight', v_before + 0),
              JSON_OBJECT('weight', CAST(p_weight AS UNSIGNED)));
  CALL _changed();
END;

DROP PROCEDURE IF EXISTS tenant_set_limit;
CREATE PROCEDURE tenant_set_limit(
  p_name LONGBLOB,
  p_limit LONGBLOB,
  p_value DECIMAL(65,20))
  COMMENT 'one limit, named as its column in the view tenants; 0 = the node default'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_name, p_limit);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE p_limit LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_limit USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_before BIGINT UNSIGNED;
  DECLARE v_most DECIMAL(65,0);
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  SET v_most = CASE
    WHEN p_limit IN ('max_connections', 'max_events_per_s', 'max_event_bytes', 'max_subscriptions',
                     'retention_s', 'max_filters', 'max_in_flight', 'max_backlog_s',
                     'max_scheduled', 'max_dead_letters') THEN 4294967295
    WHEN p_limit IN ('max_bytes_per_s', 'max_stored_bytes', 'max_backlog_events')
      THEN 18446744073709551615 END;
  IF v_most IS NULL OR p_limit LIKE '% ' THEN
    CALL _refuse(CONCAT('no limit ', COALESCE(QUOTE(LEFT(p_limit, 30)), 'NULL'),
                        ': see the columns max_… and retention_s of the view tenants'));
  END IF;
  CALL _between(p_limit, p_value, 0, v_most);
  CALL _begin();
  CALL _live_tenant(p_name, v_id);
  SELECT CASE p_limit WHEN 'max_connections' THEN max_connections
                      WHEN 'max_events_per_s' THEN max_events_per_s
                      WHEN 'max_bytes_per_s' THEN max_bytes_per_s
                      WHEN 'max_event_bytes' THEN max_event_bytes
                      WHEN 'max_subscriptions' THEN max_subscriptions
                      WHEN 'max_stored_bytes' THEN max_stored_bytes
                      WHEN 'max_backlog_events' THEN max_backlog_events
                      WHEN 'retention_s' THEN retention_s
                      WHEN 'max_filters' THEN max_filters
                      WHEN 'max_in_flight' THEN max_in_flight
                      WHEN 'max_backlog_s' THEN max_backlog_s
                      WHEN 'max_scheduled' THEN max_scheduled
                      WHEN 'max_dead_letters' THEN max_dead_letters END
    INTO v_before FROM tenant WHERE tenant_id = v_id;
  UPDATE tenant
     SET max_connections = IF(p_limit = 'max_connections', p_value, max_connections),
         max_events_per_s = IF(p_limit = 'max_events_per_s', p_value, max_events_per_s),
         max_bytes_per_s = IF(p_limit = 'max_bytes_per_s', p_value, max_bytes_per_s),
         max_event_bytes = IF(p_limit = 'max_event_bytes', p_value, max_event_bytes),
         max_subscriptions = IF(p_limit = 'max_subscriptions', p_value, max_subscriptions),
         max_stored_bytes = IF(p_limit = 'max_stored_bytes', p_value, max_stored_bytes),
         max_backlog_events = IF(p_limit = 'max_backlog_events', p_value, max_backlog_events),
         retention_s = IF(p_limit = 'retention_s', p_value, retention_s),
         max_filters = IF(p_limit = 'max_filters', p_value, max_filters),
         max_in_flight = IF(p_limit = 'max_in_flight', p_value, max_in_flight),
         max_backlog_s = IF(p_limit = 'max_backlog_s', p_value, max_backlog_s),
         max_scheduled = IF(p_limit = 'max_scheduled', p_value, max_scheduled),
         max_dead_letters = IF(p_limit = 'max_dead_letters', p_value, max_dead_letters)
   WHERE tenant_id = v_id;
  CALL _audit(v_id, 'tenant_set_limit', p_name, JSON_OBJECT(p_limit, v_before + 0),
              JSON_OBJECT(p_limit, CAST(p_value AS UNSIGNED)));
  CALL _changed();
END;

-- In the lock order of the nodes, but for the row that an import writes first in each transaction. Heads
-- go before the journal: without them nothing can be appended any more; subscriptions before what is written
-- for them. Each search waits for rows that others have made and not committed, and who makes rows looks
-- afterwards whether the tenant was deleted (TENANT_GONE): so that a call which finds nothing is the last.
-- The tenant's row stays: its name is never given to anybody else. Of the inbox only what a plain read
-- sees, by id: a search would wait for the transactions of applications that have called publish().
DROP PROCEDURE IF EXISTS tenant_purge_step;
CREATE PROCEDURE tenant_purge_step(
  p_name LONGBLOB,
  p_rows DECIMAL(65,20))
  COMMENT 'removes at most so many rows of a deleted tenant, and says what it removed and what is left'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_name);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE v_rows, v_room INT UNSIGNED;
  DECLARE v_left, v_inbox BIGINT UNSIGNED;
  DECLARE v_end TINYINT UNSIGNED DEFAULT 0;
  DECLARE c_inbox CURSOR FOR
    SELECT inbox_id FROM inbox WHERE state IN (1, 2) AND tenant_id = v_id LIMIT v_room;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _between('rows', p_rows, 1, 10000);
  CALL _begin();
  CALL _tenant(p_name, v_id, v_state);
  IF v_state <> 3 THEN
    CALL _refuse(CONCAT('tenant ', p_name, ' is not deleted: CALL tenant_delete first'));
  END IF;
  SET v_rows = p_rows, v_room = p_rows;
  DELETE FROM tenant_move WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM subscription WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM cursors WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM timer WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM schedule WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  OPEN c_inbox;
  BEGIN
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_end = 1;

    FETCH c_inbox INTO v_inbox;
    WHILE NOT v_end DO
      DELETE FROM inbox WHERE inbox_id = v_inbox;
      SET v_room = v_room - ROW_COUNT();
      FETCH c_inbox INTO v_inbox;
    END WHILE;
  END;
  CLOSE c_inbox;
  DELETE FROM head WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM journal WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM dead_letter WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM node_tenant WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM tenant_key WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM publisher WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM issuer WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM client_certificate WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM revocation WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  SELECT COALESCE(SUM(last_seq - first_seq + 1), 0) INTO v_left
    FROM (SELECT MIN(base_seq) AS first_seq, MAX(base_seq) AS last_seq
            FROM journal WHERE tenant_id = v_id GROUP BY partition_id) j;
  IF v_room < v_rows THEN
    CALL _audit(v_id, 'tenant_purge_step', p_name, NULL,
                JSON_OBJECT('removed_rows', v_rows - v_room, 'left_events', v_left + 0));
  END IF;
  COMMIT AND NO CHAIN NO RELEASE;
  SELECT v_rows - v_room AS removed_rows, v_left AS left_events,
         IF(v_room > 0, 'nothing is left', 'there is more: call it again') AS progress;
END;
