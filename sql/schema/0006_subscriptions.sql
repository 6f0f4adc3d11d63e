-- Changes to subscriptions from outside. Each takes the subscription from its owner: the epoch is
-- raised, so that nothing the owner still has in hand can be stored, and the owner's session is marked,
-- so that its next renewal makes it look (within a second). Whoever has consumers then claims it anew.
-- The client of a plain session is disconnected, and finds the change when it comes back.

DROP PROCEDURE IF EXISTS _subscription;
CREATE PROCEDURE _subscription(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED,
  OUT p_subscription_id BIGINT UNSIGNED)
  COMMENT 'a subscription by its name, locked'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;

  IF p_kind IS NULL OR p_kind NOT IN ('session', 'share', 'queue') THEN
    CALL _refuse(CONCAT('kind must be session, share or queue, not ',
                        COALESCE(QUOTE(LEFT(p_kind, 30)), 'NULL')));
  END IF;
  CALL _live_tenant(p_tenant, v_tenant);
  SELECT subscription_id INTO v_id FROM subscription
   WHERE tenant_id = v_tenant AND kind = FIELD(p_kind, 'session', 'share', 'queue')
     AND subject = CAST(COALESCE(p_subject, '') AS BINARY) AND name = CAST(p_name AS BINARY)
     FOR UPDATE;
  IF v_id IS NULL THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has no ', p_kind, ' ',
                        COALESCE(QUOTE(LEFT(p_name, 40)), 'NULL'),
                        IF(p_kind = 'session', ' of this subject', '')));
  END IF;
  SET p_tenant_id = v_tenant, p_subscription_id = v_id;
END;

DROP PROCEDURE IF EXISTS _subscription_taken;
CREATE PROCEDURE _subscription_taken(p_tenant_id INT UNSIGNED, p_subscription_id BIGINT UNSIGNED)
  COMMENT 'after the row is locked: its owner has it no longer'
BEGIN
  DECLARE v_owner BINARY(16);

  SELECT owner INTO v_owner FROM subscription
   WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id;
  UPDATE subscription SET owner = NULL, epoch = epoch + 1
   WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id;
  UPDATE node_session SET taken = taken + 1 WHERE session_id = v_owner AND state = 1;
  UPDATE cursors SET owner = NULL, epoch = epoch + 1
   WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id;
END;

DROP PROCEDURE IF EXISTS _subscription_audit;
CREATE PROCEDURE _subscription_audit(
  p_tenant_id INT UNSIGNED,
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_after LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'the target of every action here reads: kind subject name'
BEGIN
  CALL _audit(p_tenant_id, p_action,
              CONCAT_WS(' ', p_kind, NULLIF(p_subject, ''), p_name), p_before, p_after);
END;

DROP PROCEDURE IF EXISTS _subscription_set_state;
CREATE PROCEDURE _subscription_set_state(
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_state TINYINT UNSIGNED)
  COMMENT 'pause, resume'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  IF p_kind = 'session' THEN
    CALL _refuse('a session cannot be paused, only a share or a queue: its client may disconnect');
  END IF;
  SELECT state INTO v_state FROM subscription WHERE tenant_id = v_tenant AND subscription_id = v_id;
  IF v_state <> p_state THEN
    UPDATE subscription SET state = p_state WHERE tenant_id = v_tenant AND subscription_id = v_id;
    CALL _subscription_taken(v_tenant, v_id);
    CALL _subscription_audit(v_tenant, p_action, p_kind, p_subject, p_name,
                             JSON_OBJECT('state', ELT(v_state, 'active', 'paused', 'ended')),
                             JSON_OBJECT('state', ELT(p_state, 'active', 'paused')));
  END IF;
  COMMIT;
END;

DROP PROCEDURE IF EXISTS subscription_pause;
CREATE PROCEDURE subscription_pause(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'a share or queue delivers nothing until subscription_resume; its consumers stay connected'
BEGIN
  CALL _subscription_set_state('subscription_pause', p_tenant, p_kind, p_subject, p_name, 2);
END;

DROP PROCEDURE IF EXISTS subscription_resume;
CREATE PROCEDURE subscription_resume(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'after subscription_pause'
BEGIN
  CALL _subscription_set_state('subscription_resume', p_tenant, p_kind, p_subject, p_name, 1);
END;

DROP PROCEDURE IF EXISTS _position_parse;
CREATE PROCEDURE _position_parse(
  p_to TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_seq BIGINT UNSIGNED,
  OUT p_time DATETIME(3))
  COMMENT 'what _position takes, out of what a person wrote'
BEGIN
  IF p_to IN ('earliest', 'latest') THEN
    SET p_at = p_to;
  ELSEIF LENGTH(p_to) BETWEEN 1 AND 18 AND p_to NOT REGEXP '[^0-9]' THEN
    SET p_at = 'seq', p_seq = p_to;
  ELSEIF LENGTH(p_to) BETWEEN 10 AND 26 AND p_to REGEXP '^[0-9]{4}-[01][0-9]-[0-3][0-9]'
         AND p_to NOT REGEXP '[^0-9: T.-]' THEN
    SET p_at = 'time', p_time = p_to;
  ELSE
    CALL _refuse(CONCAT('a position is earliest, latest, a number, or a UTC time like',
                        ' 2026-01-31 12:00:00, not ', COALESCE(QUOTE(LEFT(p_to, 26)), 'NULL')));
  END IF;
END;

DROP PROCEDURE IF EXISTS _position;
CREATE PROCEDURE _position(
  p_tenant_id INT UNSIGNED,
  p_partition_id SMALLINT UNSIGNED,
  p_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_seq BIGINT UNSIGNED,
  p_time DATETIME(3),
  OUT p_next BIGINT UNSIGNED)
  COMMENT 'the number a reader begins with: at is earliest, latest, seq or time'
BEGIN
  DECLARE v_first BIGINT UNSIGNED;
  DECLARE v_end BIGINT UNSIGNED;

  SELECT next_seq INTO v_end FROM head
   WHERE tenant_id = p_tenant_id AND partition_id = p_partition_id;
  SELECT MIN(base_seq) INTO v_first FROM journal
   WHERE tenant_id = p_tenant_id AND partition_id = p_partition_id;
  SET p_next = v_end;
  CASE p_at
    WHEN 'earliest' THEN SET p_next = COALESCE(v_first, v_end);
    WHEN 'seq' THEN SET p_next = LEAST(GREATEST(p_seq, COALESCE(v_first, v_end)), v_end);
    WHEN 'time' THEN
      SELECT base_seq INTO p_next FROM journal
       WHERE tenant_id = p_tenant_id AND partition_id = p_partition_id AND appended_at >= p_time
       ORDER BY base_seq LIMIT 1;
    ELSE BEGIN END;
  END CASE;
END;

DROP PROCEDURE IF EXISTS _position_check;
CREATE PROCEDURE _position_check(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_partitions INT UNSIGNED)
  COMMENT 'a number says something in one partition only'
BEGIN
  IF p_at = 'seq' AND p_partitions > 1 THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has ', p_partitions,
                        ' partitions, each with numbers of its own: give a time'));
  END IF;
END;

DROP PROCEDURE IF EXISTS _filters_parse;
CREATE PROCEDURE _filters_parse(
  p_filters TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'a topic filter, or a JSON array of them, as nodes store them'
BEGIN
  DECLARE v_list TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_filter TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_i INT UNSIGNED DEFAULT 0;
  DECLARE v_n, v_different INT UNSIGNED;

  SET v_list = IF(p_filters LIKE '[%', p_filters, JSON_ARRAY(p_filters));
  SET v_n = IF(JSON_VALID(v_list), JSON_LENGTH(v_list), 0);
  IF v_n NOT BETWEEN 1 AND 100 THEN
    CALL _refuse('give a topic filter, or a JSON array of 1 to 100 of them');
  END IF;
  WHILE v_i < v_n DO
    SET v_filter = IF(JSON_TYPE(JSON_EXTRACT(v_list, CONCAT('$[', v_i, ']'))) = 'STRING',
                      JSON_UNQUOTE(JSON_EXTRACT(v_list, CONCAT('$[', v_i, ']'))), NULL);
    IF v_filter IS NULL OR LENGTH(v_filter) NOT BETWEEN 1 AND 1024 OR v_filter LIKE '$%'
       OR LENGTH(v_filter) - LENGTH(REPLACE(v_filter, '/', '')) > 31
       OR LOCATE(x'00', CAST(v_filter AS BINARY))
       OR v_filter NOT REGEXP '^(#|([^/+#]*|[+])(/([^/+#]*|[+]))*(/#)?)$' THEN
      CALL _refuse(CONCAT('not a topic filter (+ and # are whole levels, # the last; no $ at the',
                          ' beginning): ', COALESCE(QUOTE(LEFT(v_filter, 30)), 'NULL')));
    END IF;
    SET v_i = v_i + 1;
  END WHILE;
  SELECT COUNT(DISTINCT CAST(f AS BINARY)), JSON_ARRAYAGG(JSON_OBJECT('filter', f, 'qos', 1))
    INTO v_different, p_json
    FROM JSON_TABLE(v_list, '$[*]' COLUMNS (
           f VARCHAR(1024) CHARSET utf8mb4 COLLATE utf8mb4_bin PATH '$')) j;
  IF v_different < v_n THEN
    CALL _refuse('a topic filter is there twice');
  END IF;
END;

DROP PROCEDURE IF EXISTS subscription_create;
CREATE PROCEDURE subscription_create(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_filters TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_from TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'a queue before its first consumer; filters: one, or a JSON array; from: as in subscription_seek'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_filters LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_seq, v_next BIGINT UNSIGNED;
  DECLARE v_time DATETIME(3);
  DECLARE v_partition INT UNSIGNED DEFAULT 0;
  DECLARE v_partitions INT UNSIGNED;
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK;
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has a queue ', QUOTE(LEFT(p_name, 40)), ' already'));
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  IF p_kind IS NULL OR p_kind <> 'queue' OR p_subject <> '' THEN
    CALL _refuse('only a queue can be made here, with the subject \'\': consumers make the others');
  END IF;
  IF p_name IS NULL OR LENGTH(p_name) NOT BETWEEN 1 AND 128 OR p_name REGEXP '[/+#]'
     OR LOCATE(x'00', CAST(p_name AS BINARY)) THEN
    CALL _refuse(CONCAT('a queue''s name has 1 to 128 bytes without /, + and #: ',
                        COALESCE(QUOTE(LEFT(p_name, 40)), 'NULL')));
  END IF;
  CALL _filters_parse(p_filters, v_filters);
  CALL _position_parse(COALESCE(p_from, 'latest'), v_at, v_seq, v_time);
  CALL _begin();
  CALL _live_tenant(p_tenant, v_tenant);
  SELECT partitions INTO v_partitions FROM tenant WHERE tenant_id = v_tenant;
  CALL _position_check(p_tenant, v_at, v_partitions);
  INSERT INTO subscription (tenant_id, kind, subject, name, filters, expiry_s)
  VALUES (v_tenant, 3, '', p_name, v_filters, 4294967295);
  SET v_id = LAST_INSERT_ID();
  WHILE v_partition < v_partitions DO
    CALL _position(v_tenant, v_partition, v_at, v_seq, v_time, v_next);
    INSERT INTO cursors (tenant_id, subscription_id, partition_id, epoch, acked_through, acked_ahead)
    VALUES (v_tenant, v_id, v_partition, 0, v_next - 1, '');
    SET v_partition = v_partition + 1;
  END WHILE;
  CALL _subscription_audit(v_tenant, 'subscription_create', p_kind, p_subject, p_name, NULL,
                           JSON_OBJECT('filters', JSON_EXTRACT(v_filters, '$'), 'from', p_from));
  COMMIT;
END;

DROP PROCEDURE IF EXISTS subscription_seek;
CREATE PROCEDURE subscription_seek(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_to TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'deliver from earliest, latest, a number, or a UTC time like 2026-01-31 12:00:00 on'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_seq BIGINT UNSIGNED;
  DECLARE v_time DATETIME(3);
  DECLARE v_next BIGINT UNSIGNED;
  DECLARE v_partition INT UNSIGNED DEFAULT 0;
  DECLARE v_partitions INT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _position_parse(p_to, v_at, v_seq, v_time);
  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  SELECT partitions INTO v_partitions FROM tenant WHERE tenant_id = v_tenant;
  CALL _position_check(p_tenant, v_at, v_partitions);
  SELECT JSON_OBJECTAGG(partition_id, acked_through) INTO v_before FROM cursors
   WHERE tenant_id = v_tenant AND subscription_id = v_id;
  CALL _subscription_taken(v_tenant, v_id);
  WHILE v_partition < v_partitions DO
    CALL _position(v_tenant, v_partition, v_at, v_seq, v_time, v_next);
    UPDATE cursors SET acked_through = v_next - 1, acked_ahead = '', commit_no = commit_no + 1
     WHERE tenant_id = v_tenant AND subscription_id = v_id AND partition_id = v_partition;
    SET v_partition = v_partition + 1;
  END WHILE;
  CALL _subscription_audit(v_tenant, 'subscription_seek', p_kind, p_subject, p_name,
                           JSON_OBJECT('acked_through', JSON_EXTRACT(v_before, '$')),
                           (SELECT JSON_OBJECT('to', p_to, 'acked_through',
                                               JSON_OBJECTAGG(partition_id, acked_through))
                              FROM cursors WHERE tenant_id = v_tenant AND subscription_id = v_id));
  COMMIT;
END;

DROP PROCEDURE IF EXISTS subscription_set_policy;
CREATE PROCEDURE subscription_set_policy(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_policy TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_value DECIMAL(30,0))
  COMMENT 'what becomes of events its consumers fail on: a column of the view subscriptions'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_before BIGINT UNSIGNED;
  DECLARE v_backoff, v_backoff_max BIGINT UNSIGNED;
  DECLARE v_least, v_most DECIMAL(30,0);
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  SET v_least = IF(p_policy IN ('ordered', 'pin'), 0, 1);
  SET v_most = CASE
    WHEN p_policy IN ('ordered', 'pin') THEN 1
    WHEN p_policy = 'max_attempts' THEN 1000
    WHEN p_policy = 'max_failed' THEN 100000
    WHEN p_policy IN ('ack_timeout_ms', 'backoff_ms') THEN 86400000
    WHEN p_policy = 'backoff_max_ms' THEN 604800000 END;
  IF p_policy = 'ack_timeout_ms' THEN
    SET v_least = 100;
  END IF;
  IF v_most IS NULL THEN
    CALL _refuse(CONCAT('policies are max_attempts, ack_timeout_ms, backoff_ms, backoff_max_ms,',
                        ' max_failed, ordered and pin, not ',
                        COALESCE(QUOTE(LEFT(p_policy, 20)), 'NULL')));
  END IF;
  CALL _between(p_policy, p_value, v_least, v_most);
  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  IF p_kind = 'session' THEN
    CALL _refuse('a session has no policy, only a share or a queue has');
  END IF;
  SELECT CASE p_policy WHEN 'max_attempts' THEN max_attempts
                       WHEN 'ack_timeout_ms' THEN ack_timeout_ms
                       WHEN 'backoff_ms' THEN backoff_ms
                       WHEN 'backoff_max_ms' THEN backoff_max_ms
                       WHEN 'max_failed' THEN max_failed
                       WHEN 'ordered' THEN ordered
                       WHEN 'pin' THEN pin END
    INTO v_before FROM subscription WHERE tenant_id = v_tenant AND subscription_id = v_id;
  UPDATE subscription
     SET max_attempts = IF(p_policy = 'max_attempts', p_value, max_attempts),
         ack_timeout_ms = IF(p_policy = 'ack_timeout_ms', p_value, ack_timeout_ms),
         backoff_ms = IF(p_policy = 'backoff_ms', p_value, backoff_ms),
         backoff_max_ms = IF(p_policy = 'backoff_max_ms', p_value, backoff_max_ms),
         max_failed = IF(p_policy = 'max_failed', p_value, max_failed),
         ordered = IF(p_policy = 'ordered', p_value, ordered),
         pin = IF(p_policy = 'pin', p_value, pin)
   WHERE tenant_id = v_tenant AND subscription_id = v_id;
  SELECT backoff_ms, backoff_max_ms INTO v_backoff, v_backoff_max
    FROM subscription WHERE tenant_id = v_tenant AND subscription_id = v_id;
  IF v_backoff > v_backoff_max THEN
    CALL _refuse(CONCAT('backoff_ms (', v_backoff, ') is above backoff_max_ms (', v_backoff_max, ')'));
  END IF;
  CALL _subscription_taken(v_tenant, v_id);
  CALL _subscription_audit(v_tenant, 'subscription_set_policy', p_kind, p_subject, p_name,
                           JSON_OBJECT(p_policy, v_before + 0), JSON_OBJECT(p_policy, p_value + 0));
  COMMIT;
END;

DROP PROCEDURE IF EXISTS subscription_delete;
CREATE PROCEDURE subscription_delete(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'with the events it has still to try again; its dead letters stay'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_timers BIGINT;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  SELECT JSON_OBJECT('subscription_id', v_id + 0, 'filters', JSON_EXTRACT(filters, '$'), 'epoch', epoch)
    INTO v_before FROM subscription WHERE tenant_id = v_tenant AND subscription_id = v_id;
  CALL _subscription_taken(v_tenant, v_id);
  DELETE FROM subscription WHERE tenant_id = v_tenant AND subscription_id = v_id;
  DELETE FROM cursors WHERE tenant_id = v_tenant AND subscription_id = v_id;
  DELETE FROM timer WHERE subscription_id = v_id;
  SET v_timers = ROW_COUNT();
  CALL _subscription_audit(v_tenant, 'subscription_delete', p_kind, p_subject, p_name, v_before,
                           JSON_OBJECT('waiting_events_removed', v_timers + 0));
  COMMIT;
END;
