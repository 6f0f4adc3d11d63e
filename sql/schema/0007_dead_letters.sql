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

  SET v_ids = IF(p_ids REGEXP '[^0-9, \\[\\]]' OR p_ids IS NULL, '', TRIM(p_ids));
  SET v_ids = IF(v_ids LIKE '[%', v_ids, CONCAT('[', v_ids, ']'));
  IF NOT JSON_VALID(v_ids) OR JSON_DEPTH(v_ids) > 2 OR JSON_LENGTH(v_ids) NOT BETWEEN 1 AND 1000
     OR v_ids REGEXP '[0-9]{19}' THEN
    CALL _refuse(CONCAT('give a dead_letter_id, or a JSON array of 1 to 1000 of them, not ',
                        COALESCE(QUOTE(LEFT(p_ids, 30)), 'NULL')));
  END IF;
  SELECT MIN(IF(d.dead_letter_id IS NULL, l.id, NULL)), JSON_ARRAYAGG(l.id),
         MIN(d.tenant_id), MIN(d.subscription_id), COUNT(DISTINCT d.subscription_id)
    INTO v_missing, p_found, p_tenant_id, p_subscription_id, v_subscriptions
    FROM (SELECT DISTINCT id
            FROM JSON_TABLE(v_ids, '$[*]' COLUMNS (id BIGINT UNSIGNED PATH '$')) j) l
    LEFT JOIN dead_letter d ON d.dead_letter_id = l.id;
  IF v_missing IS NOT NULL THEN
    CALL _refuse(CONCAT('there is no dead letter ', v_missing));
  END IF;
  IF v_subscriptions > 1 THEN
    CALL _refuse(CONCAT('these dead letters are of ', v_subscriptions,
                        ' subscriptions: give those of one at a time'));
  END IF;
END;

DROP PROCEDURE IF EXISTS _oldest_dead_letters;
CREATE PROCEDURE _oldest_dead_letters(
  p_tenant_id INT UNSIGNED,
  p_subscription_id BIGINT UNSIGNED,
  p_reason TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_limit DECIMAL(30,0),
  OUT p_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'ids of a subscription''s oldest whose reason is LIKE this; null = any reason'
BEGIN
  DECLARE v_limit INT UNSIGNED;

  CALL _between('limit', p_limit, 1, 10000);
  SET v_limit = p_limit;
  SELECT JSON_ARRAYAGG(dead_letter_id) INTO p_found
    FROM (SELECT dead_letter_id FROM dead_letter
           WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id
             AND (p_reason IS NULL OR reason LIKE CAST(p_reason AS BINARY))
           ORDER BY dead_letter_id LIMIT v_limit) d;
END;

DROP PROCEDURE IF EXISTS _dead_letters_delete;
CREATE PROCEDURE _dead_letters_delete(
  p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'all of them, or nothing is done'
BEGIN
  DELETE d
    FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (id BIGINT UNSIGNED PATH '$')) l
    STRAIGHT_JOIN dead_letter d ON d.dead_letter_id = l.id;
  IF ROW_COUNT() <> JSON_LENGTH(p_ids) THEN
    CALL _refuse('somebody else has just settled one of these dead letters: look again');
  END IF;
END;

DROP PROCEDURE IF EXISTS _dead_letters_redrive;
CREATE PROCEDURE _dead_letters_redrive(
  p_tenant_id INT UNSIGNED,
  p_subscription_id BIGINT UNSIGNED,
  p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_per_s DECIMAL(30,0))
  COMMENT 'due p_per_s a second from now on; null = all now'
BEGIN
  DECLARE v_ordered TINYINT UNSIGNED;
  DECLARE v_max_failed, v_waiting BIGINT UNSIGNED;
  DECLARE v_now DATETIME(3) DEFAULT UTC_TIMESTAMP(3);

  SELECT ordered, max_failed INTO v_ordered, v_max_failed FROM subscription
   WHERE tenant_id = p_tenant_id AND subscription_id = p_subscription_id FOR UPDATE;
  IF v_ordered IS NULL THEN
    CALL _refuse('the subscription of these dead letters is gone: they can only be discarded');
  END IF;
  SELECT COUNT(*) INTO v_waiting
    FROM (SELECT 1 FROM timer WHERE subscription_id = p_subscription_id LIMIT 100001) t;
  IF v_waiting + JSON_LENGTH(p_ids) > v_max_failed THEN
    CALL _refuse(CONCAT(v_waiting, ' events wait to be tried again: with ', JSON_LENGTH(p_ids),
                        ' more they pass its max_failed, ', v_max_failed));
  END IF;
  CALL _subscription_taken(p_tenant_id, p_subscription_id);
  INSERT INTO timer (kind, tenant_id, subscription_id, due_at, partition_id, seq, attempt, ordering,
                     history, attributes, body)
  SELECT 3, d.tenant_id, d.subscription_id,
         v_now + INTERVAL IF(p_per_s IS NULL, 0, FLOOR((l.i - 1) * 1000000 / p_per_s)) MICROSECOND,
         d.partition_id, d.seq, 0,
         IF(v_ordered = 0, '', SUBSTRING(CAST(COALESCE(
           JSON_UNQUOTE(JSON_EXTRACT(d.attributes, '$[0].key')),
           JSON_UNQUOTE(JSON_EXTRACT(d.attributes, '$[0].topic'))) AS BINARY), 1, 1024)),
         d.history, d.attributes, d.body
    FROM JSON_TABLE(p_ids, '$[*]' COLUMNS (i FOR ORDINALITY, id BIGINT UNSIGNED PATH '$')) l
    STRAIGHT_JOIN dead_letter d ON d.dead_letter_id = l.id;
  CALL _dead_letters_delete(p_ids);
END;

DROP PROCEDURE IF EXISTS dead_letter_redrive;
CREATE PROCEDURE dead_letter_redrive(p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'an id, or a JSON array of ids of one subscription: they are tried again now'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _begin();
  CALL _dead_letters(p_ids, v_found, v_tenant, v_id);
  CALL _dead_letters_redrive(v_tenant, v_id, v_found, NULL);
  CALL _audit(v_tenant, 'dead_letter_redrive', CONCAT('subscription ', v_id),
              JSON_OBJECT('dead_letter_ids', JSON_EXTRACT(v_found, '$')), NULL);
  COMMIT;
END;

DROP PROCEDURE IF EXISTS dead_letter_redrive_all;
CREATE PROCEDURE dead_letter_redrive_all(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_reason TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_limit DECIMAL(30,0),
  p_per_s DECIMAL(30,0))
  COMMENT 'the oldest p_limit whose reason is LIKE p_reason (null = any), p_per_s a second (null = now)'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  IF p_per_s IS NOT NULL THEN
    CALL _between('events per second', p_per_s, 1, 100000);
  END IF;
  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  CALL _oldest_dead_letters(v_tenant, v_id, p_reason, p_limit, v_found);
  IF v_found IS NOT NULL THEN
    CALL _dead_letters_redrive(v_tenant, v_id, v_found, p_per_s);
    CALL _subscription_audit(v_tenant, 'dead_letter_redrive_all', p_kind, p_subject, p_name,
                             JSON_OBJECT('dead_letter_ids', JSON_EXTRACT(v_found, '$')), NULL);
  END IF;
  COMMIT;
  SELECT COALESCE(JSON_LENGTH(v_found), 0) AS redriven;
END;

DROP PROCEDURE IF EXISTS dead_letter_discard;
CREATE PROCEDURE dead_letter_discard(p_ids LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'an id, or a JSON array of ids of one subscription: they are thrown away'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _begin();
  CALL _dead_letters(p_ids, v_found, v_tenant, v_id);
  CALL _dead_letters_delete(v_found);
  CALL _audit(v_tenant, 'dead_letter_discard', CONCAT('subscription ', v_id),
              JSON_OBJECT('dead_letter_ids', JSON_EXTRACT(v_found, '$')), NULL);
  COMMIT;
END;

DROP PROCEDURE IF EXISTS dead_letter_discard_all;
CREATE PROCEDURE dead_letter_discard_all(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_kind TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_reason TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_limit DECIMAL(30,0))
  COMMENT 'the oldest p_limit whose reason is LIKE p_reason; null = any'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_found LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _begin();
  CALL _subscription(p_tenant, p_kind, p_subject, p_name, v_tenant, v_id);
  CALL _oldest_dead_letters(v_tenant, v_id, p_reason, p_limit, v_found);
  IF v_found IS NOT NULL THEN
    CALL _dead_letters_delete(v_found);
    CALL _subscription_audit(v_tenant, 'dead_letter_discard_all', p_kind, p_subject, p_name,
                             JSON_OBJECT('dead_letter_ids', JSON_EXTRACT(v_found, '$')), NULL);
  END IF;
  COMMIT;
  SELECT COALESCE(JSON_LENGTH(v_found), 0) AS discarded;
END;
