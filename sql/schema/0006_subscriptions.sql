-- Changes to subscriptions from outside. Each takes the subscription from its owner: the epoch is
-- raised, so that nothing the owner still has in hand can be stored, and the owner's session is marked,
-- so that its next renewal makes it look (within a second). Whoever has consumers then claims it anew.
-- The client of a plain session is disconnected, and finds the change when it comes back.

DROP PROCEDURE IF EXISTS _subscription;
CREATE PROCEDURE _subscription(
  p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED,
  OUT p_subscription_id BIGINT UNSIGNED)
  COMMENT 'a subscription by its name, locked'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;

  IF p_kind IS NULL OR p_kind NOT IN ('session', 'share', 'queue') OR p_kind LIKE '% ' THEN
    CALL _refuse(CONCAT('kind must be session, share or queue, not ',
                        COALESCE(QUOTE(LEFT(p_kind, 30)), 'NULL')));
  END IF;
  CALL _live_tenant(p_tenant, v_tenant);
  BEGIN
    DECLARE EXIT HANDLER FOR 1205
      RESIGNAL SET MESSAGE_TEXT = 'the subscription is locked by another transaction: try again when that has ended, see docs/admins.md';

    SELECT subscription_id INTO v_id FROM subscription
     WHERE tenant_id = v_tenant AND kind = FIELD(p_kind, 'session', 'share', 'queue')
       AND subject = CAST(COALESCE(p_subject, '') AS BINARY) AND name = CAST(p_name AS BINARY)
       FOR UPDATE;
  END;
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
  DECLARE EXIT HANDLER FOR 1205
    RESIGNAL SET MESSAGE_TEXT = 'the subscription is locked by another transaction: try again when that has ended, see docs/admins.md';

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
  p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
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
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB,
  p_state TINYINT UNSIGNED)
  COMMENT 'pause, resume'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_kind, p_subject, p_name);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kind USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_state TINYINT UNSIGNED;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
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
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS subscription_pause;
CREATE PROCEDURE subscription_pause(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB)
  COMMENT 'a share or queue delivers nothing until subscription_resume; its consumers stay connected'
BEGIN
  CALL _subscription_set_state('subscription_pause', p_tenant, p_kind, p_subject, p_name, 2);
END;

DROP PROCEDURE IF EXISTS subscription_resume;
CREATE PROCEDURE subscription_resume(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB)
  COMMENT 'after subscription_pause'
BEGIN
  CALL _subscription_set_state('subscription_resume', p_tenant, p_kind, p_subject, p_name, 1);
END;

DROP PROCEDURE IF EXISTS _position_parse;
CREATE PROCEDURE _position_parse(
  p_to LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_seq BIGINT UNSIGNED,
  OUT p_time DATETIME(3))
  COMMENT 'what _position takes, out of what a person wrote'
BEGIN
  DECLARE EXIT HANDLER FOR 1292 CALL _refuse(CONCAT(QUOTE(p_to), ' is not a day and time of the calendar'));

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
  p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_tenant_id INT UNSIGNED,
  p_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'a number says something in one partition only'
BEGIN
  DECLARE v_open, v_sealed INT UNSIGNED;

  IF p_at = 'seq' THEN
    SELECT COUNT(IF(sealed_at IS NULL, 1, NULL)),
           COUNT(IF(sealed_at IS NOT NULL AND first_seq < next_seq, 1, NULL))
      INTO v_open, v_sealed FROM head WHERE tenant_id = p_tenant_id;
    IF v_open > 1 THEN
      CALL _refuse(CONCAT('tenant ', p_tenant, ' has ', v_open,
                          ' partitions, each with numbers of its own: give a time'));
    END IF;
    IF v_sealed > 0 THEN
      CALL _refuse(CONCAT('tenant ', p_tenant,
                          ' still has events in sealed partitions, with other numbers: give a time'));
    END IF;
  END IF;
END;

DROP PROCEDURE IF EXISTS _cursors_place;
CREATE PROCEDURE _cursors_place(
  p_tenant_id INT UNSIGNED,
  p_subscription_id BIGINT UNSIGNED,
  p_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_seq BIGINT UNSIGNED,
  p_time DATETIME(3))
  COMMENT 'its cursors are those of one layout: the first that has something of what is wanted'
BEGIN
  DECLARE v_epoch, v_next BIGINT UNSIGNED;
  DECLARE v_layout, v_partition, v_end INT UNSIGNED;

  IF p_at IN ('earliest', 'time') THEN
    SELECT MIN(h.layout) INTO v_layout FROM head h JOIN journal j
        ON j.tenant_id = h.tenant_id AND j.partition_id = h.partition_id
       AND j.base_seq = (SELECT MAX(l.base_seq) FROM journal l
                          WHERE l.tenant_id = h.tenant_id AND l.partition_id = h.partition_id)
     WHERE h.tenant_id = p_tenant_id AND (p_at = 'earliest' OR j.appended_at >= p_time);
  END IF;
  IF v_layout IS NULL THEN
    SELECT first_partition INTO v_layout FROM tenant WHERE tenant_id = p_tenant_id;
  END IF;
  SELECT MIN(partition_id), MAX(partition_id) INTO v_partition, v_end FROM head
   WHERE tenant_id = p_tenant_id AND layout = v_layout;
  SELECT epoch INTO v_epoch FROM subscription
   WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id;
  DELETE FROM cursors WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id;
  WHILE v_partition <= v_end DO
    CALL _position(p_tenant_id, v_partition, p_at, p_seq, p_time, v_next);
    INSERT INTO cursors (tenant_id, subscription_id, partition_id, epoch, acked_through, acked_ahead)
    VALUES (p_tenant_id, p_subscription_id, v_partition, v_epoch, v_next - 1, '');
    SET v_partition = v_partition + 1;
  END WHILE;
END;

DROP PROCEDURE IF EXISTS _filters_parse;
CREATE PROCEDURE _filters_parse(
  p_filters LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'a topic filter, or a JSON array of them, as nodes store them'
BEGIN
  DECLARE v_list LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_filter LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_i INT UNSIGNED DEFAULT 0;
  DECLARE v_n, v_different INT UNSIGNED;
  DECLARE EXIT HANDLER FOR 3157 CALL _refuse('this JSON is nested too deeply'); -- MySQL's

  SET p_json = '[';
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
    SET p_json = CONCAT(p_json, IF(v_i > 0, ', ', ''), JSON_OBJECT('filter', v_filter, 'qos', 1));
    SET v_i = v_i + 1;
  END WHILE;
  SET p_json = CONCAT(p_json, ']'); -- JSON_ARRAYAGG is cut off at group_concat_max_len, the caller's
  SELECT COUNT(DISTINCT CAST(f AS BINARY))
    INTO v_different
    FROM JSON_TABLE(v_list, '$[*]' COLUMNS (
           f VARCHAR(1024) CHARSET utf8mb4 COLLATE utf8mb4_bin PATH '$')) j;
  IF v_different < v_n THEN
    CALL _refuse('a topic filter is there twice');
  END IF;
END;

DROP PROCEDURE IF EXISTS subscription_create;
CREATE PROCEDURE subscription_create(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB,
  p_filters LONGBLOB,
  p_from LONGBLOB)
  COMMENT 'a queue before its first consumer; filters: one, or a JSON array; from: as in subscription_seek'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_kind, p_subject, p_name, p_filters, p_from);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kind USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE p_filters LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_filters USING utf8mb4);
  DECLARE p_from LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_from USING utf8mb4);
  DECLARE v_tenant, v_max, v_have INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_filters LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_seq BIGINT UNSIGNED;
  DECLARE v_time DATETIME(3);
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK AND NO CHAIN NO RELEASE;
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has a queue ', QUOTE(LEFT(p_name, 40)), ' already'));
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  IF p_kind IS NULL OR p_kind <> 'queue' OR p_kind LIKE '% ' OR p_subject <> '' THEN
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
  CALL _position_check(p_tenant, v_tenant, v_at);
  SELECT max_subscriptions INTO v_max FROM tenant WHERE tenant_id = v_tenant;
  IF v_max = 0 THEN -- the nodes', as they say themselves
    SELECT COALESCE(MIN(NULLIF(max_subscriptions, 0)), 0) INTO v_max FROM node_session WHERE state = 1;
  END IF;
  SELECT COUNT(*) INTO v_have
    FROM (SELECT 1 FROM subscription FORCE INDEX (PRIMARY) WHERE tenant_id = v_tenant LIMIT v_max) s;
  IF v_max > 0 AND v_have >= v_max THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has ', v_have, ' of ', v_max, ' subscriptions (max_subscriptions)'));
  END IF;
  INSERT INTO subscription (tenant_id, kind, subject, name, filters, expiry_s)
  VALUES (v_tenant, 3, '', p_name, v_filters, 4294967295);
  SET v_id = LAST_INSERT_ID();
  CALL _cursors_place(v_tenant, v_id, v_at, v_seq, v_time);
  CALL _subscription_audit(v_tenant, 'subscription_create', p_kind, p_subject, p_name, NULL,
                           JSON_OBJECT('filters', JSON_EXTRACT(v_filters, '$'), 'from', p_from));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS subscription_seek;
CREATE PROCEDURE subscription_seek(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB,
  p_to LONGBLOB)
  COMMENT 'deliver from earliest, latest, a number, or a UTC time like 2026-01-31 12:00:00 on'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_kind, p_subject, p_name, p_to);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kind USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE p_to LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_to USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_at VARCHAR(8) CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_seq BIGINT UNSIGNED;
  DECLARE v_time DATETIME(3);
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _position_parse(p_to, v_at, v_seq, v_time);
  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  CALL _position_check(p_tenant, v_tenant, v_at);
  SELECT JSON_OBJECTAGG(partition_id, acked_through) INTO v_before FROM cursors
   WHERE tenant_id = v_tenant AND subscription_id = v_id;
  CALL _subscription_taken(v_tenant, v_id);
  IF v_before IS NOT NULL THEN
    CALL _cursors_place(v_tenant, v_id, v_at, v_seq, v_time);
  END IF;
  CALL _subscription_audit(v_tenant, 'subscription_seek', p_kind, p_subject, p_name,
                           JSON_OBJECT('acked_through', JSON_EXTRACT(v_before, '$')),
                           (SELECT JSON_OBJECT('to', p_to, 'acked_through',
                                               JSON_OBJECTAGG(partition_id, acked_through))
                              FROM cursors WHERE tenant_id = v_tenant AND subscription_id = v_id));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS subscription_set_policy;
CREATE PROCEDURE subscription_set_policy(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB,
  p_policy LONGBLOB,
  p_value DECIMAL(65,20))
  COMMENT 'what becomes of events its consumers fail on: a column of the view subscriptions'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_kind, p_subject, p_name, p_policy);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kind USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE p_policy LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_policy USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_before BIGINT UNSIGNED;
  DECLARE v_backoff, v_backoff_max BIGINT UNSIGNED;
  DECLARE v_least, v_most DECIMAL(65,0);
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
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
  IF v_most IS NULL OR p_policy LIKE '% ' THEN
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
                           JSON_OBJECT(p_policy, v_before + 0), JSON_OBJECT(p_policy, CAST(p_value AS UNSIGNED)));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS subscription_delete;
CREATE PROCEDURE subscription_delete(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB)
  COMMENT 'with the events it has still to try again; its dead letters stay'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_kind, p_subject, p_name);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kind USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_timers BIGINT;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  SELECT JSON_OBJECT('subscription_id', v_id + 0, 'filters', JSON_EXTRACT(filters, '$'), 'epoch', epoch)
    INTO v_before FROM subscription WHERE tenant_id = v_tenant AND subscription_id = v_id;
  CALL _subscription_taken(v_tenant, v_id);
  BEGIN
    DECLARE EXIT HANDLER FOR 1205
      RESIGNAL SET MESSAGE_TEXT = 'the subscription is locked by another transaction: try again when that has ended, see docs/admins.md';

    DELETE FROM subscription WHERE tenant_id = v_tenant AND subscription_id = v_id;
    DELETE FROM cursors WHERE tenant_id = v_tenant AND subscription_id = v_id;
    DELETE FROM timer WHERE subscription_id = v_id;
    SET v_timers = ROW_COUNT();
  END;
  CALL _subscription_audit(v_tenant, 'subscription_delete', p_kind, p_subject, p_name, v_before,
                           JSON_OBJECT('waiting_events_removed', v_timers + 0));
  COMMIT AND NO CHAIN NO RELEASE;
END;
