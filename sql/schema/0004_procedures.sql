-- What the procedures of the admin console stand on, and those for tenants. In all of them:
--   · A procedure is one transaction: it does everything it says, with a row in `audit`, or nothing. It
--     ends a transaction that the caller has open.
--   · It runs with the rights of the account that migrated, so that who may call it need not be able to
--     write a table. Those whose names begin with _ are for the others; no role may call them.
--   · What it refuses it answers with SQLSTATE 45000 and a text: what was wrong, what is allowed.
--   · No statement is put together from what the caller gave.
-- No functions: with a binlog MySQL lets only a superuser create one.

DROP PROCEDURE IF EXISTS _refuse;
CREATE PROCEDURE _refuse(p_text TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'the end of a call that may not be'
BEGIN
  DECLARE v_text VARCHAR(128) CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT LEFT(p_text, 128);

  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = v_text;
END;

DROP PROCEDURE IF EXISTS _begin;
CREATE PROCEDURE _begin()
  COMMENT 'the transaction of a call; REPEATABLE READ would lock gaps that nodes insert into'
BEGIN
  COMMIT;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  START TRANSACTION;
END;

DROP PROCEDURE IF EXISTS _audit;
CREATE PROCEDURE _audit(
  p_tenant_id INT UNSIGNED,
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_target TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
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
  UPDATE change_counter SET changes = changes + 1 WHERE id = 1;
  COMMIT;
END;

DROP PROCEDURE IF EXISTS _tenant;
CREATE PROCEDURE _tenant(
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED,
  OUT p_state TINYINT UNSIGNED)
  COMMENT 'a tenant, locked; 3 = deleted'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;

  SELECT tenant_id, state INTO v_id, v_state
    FROM tenant WHERE name = CAST(p_name AS BINARY) FOR UPDATE;
  IF v_id IS NULL THEN
    CALL _refuse(CONCAT('there is no tenant ', COALESCE(QUOTE(LEFT(p_name, 63)), 'NULL'),
                        ': see the view tenants'));
  END IF;
  SET p_tenant_id = v_id, p_state = v_state;
END;

DROP PROCEDURE IF EXISTS _live_tenant;
CREATE PROCEDURE _live_tenant(
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED)
  COMMENT 'a tenant that is not deleted, locked'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;

  CALL _tenant(p_name, v_id, v_state);
  IF v_state = 3 THEN
    CALL _refuse(CONCAT('there is no tenant ', p_name, ' any more: it was deleted'));
  END IF;
  SET p_tenant_id = v_id;
END;

DROP PROCEDURE IF EXISTS _between;
CREATE PROCEDURE _between(
  p_what TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_value DECIMAL(30,0),
  p_least DECIMAL(30,0),
  p_most DECIMAL(30,0))
  COMMENT 'refuses a number that is missing or out of bounds'
BEGIN
  IF p_value IS NULL OR p_value < p_least OR p_value > p_most THEN
    CALL _refuse(CONCAT(p_what, ' must be ', p_least, ' to ', p_most, ', not ',
                        COALESCE(p_value, 'NULL')));
  END IF;
END;

-- ---- tenants --------------------------------------------------------------------------------------

DROP PROCEDURE IF EXISTS tenant_create;
CREATE PROCEDURE tenant_create(
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_weight DECIMAL(30,0),
  p_partitions DECIMAL(30,0))
  COMMENT 'a new tenant; weight (its share when tenants queue) and partitions: null = 1'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_partition INT UNSIGNED DEFAULT 0;
  DECLARE v_weight DECIMAL(30,0) DEFAULT COALESCE(p_weight, 1);
  DECLARE v_partitions DECIMAL(30,0) DEFAULT COALESCE(p_partitions, 1);
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK;
    CALL _refuse(CONCAT('tenant name ', p_name, ' is taken, or was: names are never reused'));
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

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
              JSON_OBJECT('weight', v_weight + 0, 'partitions', v_partitions + 0));
  CALL _changed();
END;

DROP PROCEDURE IF EXISTS _tenant_set_state;
CREATE PROCEDURE _tenant_set_state(
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_state TINYINT UNSIGNED)
  COMMENT 'suspend, resume, delete'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _begin();
  CALL _live_tenant(p_name, v_id);
  SELECT state INTO v_state FROM tenant WHERE tenant_id = v_id;
  UPDATE tenant SET state = p_state WHERE tenant_id = v_id;
  CALL _audit(v_id, p_action, p_name, JSON_OBJECT('state', ELT(v_state, 'active', 'suspended')),
              JSON_OBJECT('state', ELT(p_state, 'active', 'suspended', 'deleted')));
  CALL _changed();
END;

DROP PROCEDURE IF EXISTS tenant_suspend;
CREATE PROCEDURE tenant_suspend(p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'its connections are ended and nobody is let in; everything is kept'
BEGIN
  CALL _tenant_set_state('tenant_suspend', p_name, 2);
END;

DROP PROCEDURE IF EXISTS tenant_resume;
CREATE PROCEDURE tenant_resume(p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'after tenant_suspend'
BEGIN
  CALL _tenant_set_state('tenant_resume', p_name, 1);
END;

DROP PROCEDURE IF EXISTS tenant_delete;
CREATE PROCEDURE tenant_delete(p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'for good: nobody is let in, its name stays taken; tenant_purge_step removes its data'
BEGIN
  CALL _tenant_set_state('tenant_delete', p_name, 3);
END;

DROP PROCEDURE IF EXISTS tenant_set_weight;
CREATE PROCEDURE tenant_set_weight(
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_weight DECIMAL(30,0))
  COMMENT 'its share relative to other tenants wherever tenants queue'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_before INT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _between('weight', p_weight, 1, 65535);
  CALL _begin();
  CALL _live_tenant(p_name, v_id);
  SELECT weight INTO v_before FROM tenant WHERE tenant_id = v_id;
  UPDATE tenant SET weight = p_weight WHERE tenant_id = v_id;
  CALL _audit(v_id, 'tenant_set_weight', p_name, JSON_OBJECT('weight', v_before + 0),
              JSON_OBJECT('weight', p_weight + 0));
  CALL _changed();
END;

DROP PROCEDURE IF EXISTS tenant_set_limit;
CREATE PROCEDURE tenant_set_limit(
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_limit TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_value DECIMAL(30,0))
  COMMENT 'one limit, named as its column in the view tenants; 0 = the node default'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_before BIGINT UNSIGNED;
  DECLARE v_most DECIMAL(30,0);
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  SET v_most = CASE
    WHEN p_limit IN ('max_connections', 'max_events_per_s', 'max_event_bytes', 'max_subscriptions',
                     'retention_s') THEN 4294967295
    WHEN p_limit IN ('max_bytes_per_s', 'max_stored_bytes', 'max_backlog_events')
      THEN 18446744073709551615 END;
  IF v_most IS NULL THEN
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
                      WHEN 'retention_s' THEN retention_s END
    INTO v_before FROM tenant WHERE tenant_id = v_id;
  UPDATE tenant
     SET max_connections = IF(p_limit = 'max_connections', p_value, max_connections),
         max_events_per_s = IF(p_limit = 'max_events_per_s', p_value, max_events_per_s),
         max_bytes_per_s = IF(p_limit = 'max_bytes_per_s', p_value, max_bytes_per_s),
         max_event_bytes = IF(p_limit = 'max_event_bytes', p_value, max_event_bytes),
         max_subscriptions = IF(p_limit = 'max_subscriptions', p_value, max_subscriptions),
         max_stored_bytes = IF(p_limit = 'max_stored_bytes', p_value, max_stored_bytes),
         max_backlog_events = IF(p_limit = 'max_backlog_events', p_value, max_backlog_events),
         retention_s = IF(p_limit = 'retention_s', p_value, retention_s)
   WHERE tenant_id = v_id;
  CALL _audit(v_id, 'tenant_set_limit', p_name, JSON_OBJECT(p_limit, v_before + 0),
              JSON_OBJECT(p_limit, p_value + 0));
  CALL _changed();
END;

-- In the lock order of the nodes. Heads go before the journal: without them nothing can be appended any
-- more. The tenant's row stays: its name is never given to anybody else.
DROP PROCEDURE IF EXISTS tenant_purge_step;
CREATE PROCEDURE tenant_purge_step(
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_rows DECIMAL(30,0))
  COMMENT 'removes at most so many rows of a deleted tenant, and says what it removed and what is left'
BEGIN
  DECLARE v_id INT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE v_room INT UNSIGNED;
  DECLARE v_left BIGINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _between('rows', p_rows, 1, 10000);
  CALL _begin();
  CALL _tenant(p_name, v_id, v_state);
  IF v_state <> 3 THEN
    CALL _refuse(CONCAT('tenant ', p_name, ' is not deleted: CALL tenant_delete first'));
  END IF;
  SET v_room = p_rows;
  DELETE FROM subscription WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM cursors WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM timer WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM schedule WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM head WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM journal WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM dead_letter WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM storage_full WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  DELETE FROM tenant_key WHERE tenant_id = v_id LIMIT v_room;
  SET v_room = v_room - ROW_COUNT();
  SELECT COALESCE(SUM(last_seq - first_seq + 1), 0) INTO v_left
    FROM (SELECT MIN(base_seq) AS first_seq, MAX(base_seq) AS last_seq
            FROM journal WHERE tenant_id = v_id GROUP BY partition_id) j;
  IF v_room < p_rows THEN
    CALL _audit(v_id, 'tenant_purge_step', p_name, NULL,
                JSON_OBJECT('removed_rows', p_rows - v_room, 'left_events', v_left + 0));
  END IF;
  COMMIT;
  SELECT p_rows - v_room AS removed_rows, v_left AS left_events,
         IF(v_room > 0, 'nothing is left', 'there is more: call it again') AS progress;
END;
