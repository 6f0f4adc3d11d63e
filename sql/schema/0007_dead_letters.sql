-- Dead letters: try them again (redrive) or throw them away (discard). A redriven one becomes an event
-- that waits to be tried again, with no attempt made and its history kept; its queue's owner reads it
-- when it claims the queue anew, which is at once.
--
-- Which ones: an id, or a JSON array of ids, which any SELECT over the view dead_letters can make; or
-- the oldest of a subscription.

DROP PROCEDURE IF EXISTS _dead_letters;
CREATE PROCEDURE _dead_letters(
  p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED,
  OUT p_subscription_id BIGINT UNSIGNED)
  COMMENT 'the ids that a caller gave, each once; all there, and of one subscription'
BEGIN
  DECLARE v_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_missing VARCHAR(32) CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE v_subscriptions INT UNSIGNED;
  DECLARE EXIT HANDLER FOR 3157 CALL _refuse('this JSON is nested too deeply'); -- MySQL's

  SET v_ids = IF(p_ids REGEXP '[^0-9, \\[\\]]' OR p_ids IS NULL, '', TRIM(p_ids));
  SET v_ids = IF(v_ids LIKE '[%', v_ids, CONCAT('[', v_ids, ']'));
  IF NOT JSON_VALID(v_ids) OR JSON_DEPTH(v_ids) > 2 OR JSON_LENGTH(v_ids) NOT BETWEEN 1 AND 1000
     OR v_ids REGEXP '[0-9]{19}' THEN
    CALL _refuse(CONCAT('give a dead_letter_id, or a JSON array of 1 to 1000 of them, not ',
                        COALESCE(QUOTE(LEFT(p_ids, 30)), 'NULL')));
  END IF;
  -- MariaDB's alone is cut off at group_concat_max_len, which is the caller's
  /*M! SET STATEMENT group_concat_max_len = 1048576 FOR */
  SELECT MIN(IF(d.dead_letter_id IS NULL, l.id, NULL)), JSON_ARRAYAGG(l.id),
         MIN(d.tenant_id), MIN(d.subscription_id), COUNT(DISTINCT d.subscription_id)
    INTO v_missing, p_found, p_tenant_id, p_subscription_id, v_subscriptions
    FROM (SELECT DISTINCT id
            FROM JSON_TABLE(v_ids, '$[*]' COLUMNS (id BIGINT UNSIGNED PATH '$')) j) l
    LEFT JOIN dead_letter d FORCE INDEX (PRIMARY) ON d.dead_letter_id = l.id;
  IF v_missing IS NOT NULL THEN
    CALL _refuse(CONCAT('there is no dead letter ', v_missing));
  END IF;
  IF v_subscriptions > 1 THEN
    CALL _refuse(CONCAT('these dead letters are of ', v_subscriptions,
                        ' subscriptions: give those of one at a time'));
  END IF;
  CALL _unmoved(p_tenant_id);
END;

DROP PROCEDURE IF EXISTS _oldest_dead_letters;
CREATE PROCEDURE _oldest_dead_letters(
  p_tenant_id INT UNSIGNED,
  p_subscription_id BIGINT UNSIGNED,
  p_reason LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_limit DECIMAL(65,20),
  p_room BIGINT UNSIGNED,
  OUT p_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_left TINYINT UNSIGNED)
  COMMENT 'ids of a subscription''s oldest whose reason is LIKE this, null = any; as many as a step takes, and are there more'
BEGIN
  DECLARE v_limit, v_upto INT UNSIGNED;

  IF p_limit IS NOT NULL THEN
    CALL _between('limit', p_limit, 1, 4294967295);
  END IF;
  SET v_limit = LEAST(COALESCE(p_limit, 10000), 10000, p_room), v_upto = v_limit + 1;
  /*M! SET STATEMENT group_concat_max_len = 1048576 FOR */
  SELECT JSON_ARRAYAGG(dead_letter_id) INTO p_found
    FROM (SELECT dead_letter_id FROM dead_letter
           WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id
             AND (p_reason IS NULL OR reason LIKE CAST(p_reason AS BINARY))
           ORDER BY dead_letter_id LIMIT v_limit) d;
  SELECT COUNT(*) > COALESCE(JSON_LENGTH(p_found), 0) INTO p_left
    FROM (SELECT 1 FROM dead_letter
           WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id
             AND (p_reason IS NULL OR reason LIKE CAST(p_reason AS BINARY)) LIMIT v_upto) d;
END;

-- The row that tells of them is all that stays: whoever asks later what was thrown away reads it there.
DROP PROCEDURE IF EXISTS _dead_letters_told;
CREATE PROCEDURE _dead_letters_told(
  p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_json LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'their ids, and of the first hundred which events they were'
BEGIN
  DECLARE v_events LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;

  /*M! SET STATEMENT group_concat_max_len = 1048576 FOR */
  SELECT JSON_ARRAYAGG(JSON_OBJECT('partition', d.partition_id, 'seq', d.seq, 'attempt', d.attempt,
                                   'topic', JSON_UNQUOTE(JSON_EXTRACT(d.attributes, '$[0].topic')),
                                   'reason', LEFT(CONVERT(d.reason USING utf8mb4), 200)))
    INTO v_events
    FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (i FOR ORDINALITY, id BIGINT UNSIGNED PATH '$')) l
    STRAIGHT_JOIN dead_letter d FORCE INDEX (PRIMARY) ON d.dead_letter_id = l.id
   WHERE l.i <= 100;
  SET p_json = JSON_OBJECT('dead_letter_ids', JSON_EXTRACT(p_ids, '$'), 'events', JSON_EXTRACT(v_events, '$'));
END;

DROP PROCEDURE IF EXISTS _dead_letters_delete;
CREATE PROCEDURE _dead_letters_delete(
  p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'all of them, or nothing is done; one by one: sql_safe_updates refuses a join'
BEGIN
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_end TINYINT UNSIGNED DEFAULT 0;
  DECLARE c_ids CURSOR FOR
    SELECT l.id FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (id BIGINT UNSIGNED PATH '$')) l;
  DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_end = 1;
  DECLARE EXIT HANDLER FOR 1205
    RESIGNAL SET MESSAGE_TEXT = 'the dead letter is locked by another transaction: try again when that has ended, see docs/admins.md';

  OPEN c_ids;
  FETCH c_ids INTO v_id;
  WHILE NOT v_end DO
    DELETE FROM dead_letter WHERE dead_letter_id = v_id;
    IF ROW_COUNT() <> 1 THEN
      CALL _refuse('somebody else has just settled one of these dead letters: look again');
    END IF;
    FETCH c_ids INTO v_id;
  END WHILE;
  CLOSE c_ids;
END;

DROP PROCEDURE IF EXISTS _dead_letters_room;
CREATE PROCEDURE _dead_letters_room(
  p_tenant_id INT UNSIGNED,
  p_subscription_id BIGINT UNSIGNED,
  OUT p_ordered TINYINT UNSIGNED,
  OUT p_max_failed BIGINT UNSIGNED,
  OUT p_waiting BIGINT UNSIGNED,
  OUT p_last DATETIME(3))
  COMMENT 'how many wait to be tried again, and when the last of those that were redriven is due'
BEGIN
  DECLARE EXIT HANDLER FOR 1205
    RESIGNAL SET MESSAGE_TEXT = 'the subscription is locked by another transaction: try again when that has ended, see docs/admins.md';

  SELECT ordered, max_failed INTO p_ordered, p_max_failed FROM subscription
   WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id FOR UPDATE;
  IF p_ordered IS NULL THEN
    CALL _refuse('the subscription of these dead letters is gone: they can only be discarded');
  END IF;
  SELECT COUNT(*), MAX(IF(attempt = 0, due_at, NULL)) INTO p_waiting, p_last
    FROM (SELECT attempt, due_at FROM timer WHERE subscription_id = p_subscription_id LIMIT 100001) t;
END;

DROP PROCEDURE IF EXISTS _dead_letters_redrive;
CREATE PROCEDURE _dead_letters_redrive(
  p_tenant_id INT UNSIGNED,
  p_subscription_id BIGINT UNSIGNED,
  p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_per_s DECIMAL(65,20))
  COMMENT 'due p_per_s a second, behind those that were redriven before; null = all now'
BEGIN
  DECLARE v_ordered TINYINT UNSIGNED;
  DECLARE v_max_failed, v_waiting BIGINT UNSIGNED;
  DECLARE v_from DATETIME(3) DEFAULT UTC_TIMESTAMP(3);
  DECLARE v_last DATETIME(3);

  CALL _dead_letters_room(p_tenant_id, p_subscription_id, v_ordered, v_max_failed, v_waiting, v_last);
  IF p_per_s IS NOT NULL AND v_last IS NOT NULL THEN
    SET v_from = GREATEST(v_from, v_last + INTERVAL FLOOR(1000000 / p_per_s) MICROSECOND);
  END IF;
  IF v_waiting + JSON_LENGTH(p_ids) > v_max_failed THEN
    CALL _refuse(CONCAT(v_waiting, ' events wait to be tried again: with ', JSON_LENGTH(p_ids),
                        ' more they pass its max_failed, ', v_max_failed));
  END IF;
  CALL _subscription_taken(p_tenant_id, p_subscription_id);
  INSERT INTO timer (kind, tenant_id, subscription_id, due_at, partition_id, seq, attempt, ordering,
                     history, attributes, body)
  SELECT 3, d.tenant_id, d.subscription_id,
         v_from + INTERVAL IF(p_per_s IS NULL, 0, FLOOR((l.i - 1) * 1000000 / p_per_s)) MICROSECOND,
         d.partition_id, d.seq, 0,
         IF(v_ordered = 0, '', SUBSTRING(CAST(COALESCE(
           JSON_UNQUOTE(JSON_EXTRACT(d.attributes, '$[0].key')),
           JSON_UNQUOTE(JSON_EXTRACT(d.attributes, '$[0].topic'))) AS BINARY), 1, 1024)),
         d.history, d.attributes, d.body
    FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (i FOR ORDINALITY, id BIGINT UNSIGNED PATH '$')) l
    STRAIGHT_JOIN dead_letter d FORCE INDEX (PRIMARY) ON d.dead_letter_id = l.id;
  CALL _dead_letters_delete(p_ids);
END;

DROP PROCEDURE IF EXISTS dead_letter_redrive;
CREATE PROCEDURE dead_letter_redrive(p_ids LONGBLOB)
  COMMENT 'an id, or a JSON array of ids of one subscription: they are tried again now'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_ids);
  DECLARE p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_ids USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _dead_letters(p_ids, v_found, v_tenant, v_id);
  CALL _dead_letters_redrive(v_tenant, v_id, v_found, NULL);
  CALL _audit(v_tenant, 'dead_letter_redrive', CONCAT('subscription ', v_id),
              JSON_OBJECT('dead_letter_ids', JSON_EXTRACT(v_found, '$')),
              JSON_OBJECT('state', 'waiting', 'events', JSON_LENGTH(v_found), 'per_s', NULL));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS dead_letter_redrive_all;
CREATE PROCEDURE dead_letter_redrive_all(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB,
  p_reason LONGBLOB,
  p_limit DECIMAL(65,20),
  p_per_s DECIMAL(65,20))
  COMMENT 'those whose reason is LIKE p_reason (null = any), the oldest p_limit (null = all), p_per_s a second (null = now); again while it answers left = 1'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_kind, p_subject, p_name, p_reason);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kind USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE p_reason LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_reason USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id, v_max_failed, v_waiting BIGINT UNSIGNED;
  DECLARE v_ordered, v_left TINYINT UNSIGNED;
  DECLARE v_last DATETIME(3);
  DECLARE v_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  IF p_per_s < 0.0001 OR p_per_s > 100000 THEN
    CALL _refuse(CONCAT('events per second must be 0.0001 to 100000, not ', p_per_s + 0e0));
  END IF;
  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  CALL _dead_letters_room(v_tenant, v_id, v_ordered, v_max_failed, v_waiting, v_last);
  CALL _oldest_dead_letters(v_tenant, v_id, p_reason, p_limit,
                            IF(v_waiting < v_max_failed, v_max_failed - v_waiting, 0), v_found, v_left);
  IF v_found IS NOT NULL THEN
    CALL _dead_letters_redrive(v_tenant, v_id, v_found, p_per_s);
    CALL _subscription_audit(v_tenant, 'dead_letter_redrive_all', p_kind, p_subject, p_name,
                             JSON_OBJECT('dead_letter_ids', JSON_EXTRACT(v_found, '$')),
                             JSON_OBJECT('state', 'waiting', 'events', JSON_LENGTH(v_found),
                                         'per_s', p_per_s + 0e0));
  END IF;
  COMMIT AND NO CHAIN NO RELEASE;
  SELECT COALESCE(JSON_LENGTH(v_found), 0) AS redriven, v_left AS `left`;
END;

DROP PROCEDURE IF EXISTS dead_letter_discard;
CREATE PROCEDURE dead_letter_discard(p_ids LONGBLOB)
  COMMENT 'an id, or a JSON array of ids of one subscription: they are thrown away'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_ids);
  DECLARE p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_ids USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_found, v_told LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _dead_letters(p_ids, v_found, v_tenant, v_id);
  CALL _dead_letters_told(v_found, v_told);
  CALL _dead_letters_delete(v_found);
  CALL _audit(v_tenant, 'dead_letter_discard', CONCAT('subscription ', v_id), v_told, NULL);
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS dead_letter_discard_all;
CREATE PROCEDURE dead_letter_discard_all(
  p_tenant LONGBLOB,
  p_kind LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB,
  p_reason LONGBLOB,
  p_limit DECIMAL(65,20))
  COMMENT 'those whose reason is LIKE p_reason (null = any), the oldest p_limit (null = all); again while it answers left = 1'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_kind, p_subject, p_name, p_reason);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_kind LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_kind USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE p_reason LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_reason USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_left TINYINT UNSIGNED;
  DECLARE v_found, v_told LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  CALL _oldest_dead_letters(v_tenant, v_id, p_reason, p_limit, 10000, v_found, v_left);
  IF v_found IS NOT NULL THEN
    CALL _dead_letters_told(v_found, v_told);
    CALL _dead_letters_delete(v_found);
    CALL _subscription_audit(v_tenant, 'dead_letter_discard_all', p_kind, p_subject, p_name, v_told, NULL);
  END IF;
  COMMIT AND NO CHAIN NO RELEASE;
  SELECT COALESCE(JSON_LENGTH(v_found), 0) AS discarded, v_left AS `left`;
END;
