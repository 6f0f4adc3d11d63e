-- Events that wait for their time, and cron schedules. The leader looks at both tables by itself.

DROP PROCEDURE IF EXISTS timer_cancel;
CREATE PROCEDURE timer_cancel(
  p_tenant LONGBLOB,
  p_subject LONGBLOB,
  p_name LONGBLOB)
  COMMENT 'a scheduled publish, by its publisher''s subject and its name, is never published'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_subject, p_name);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_subject LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_subject USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _live_tenant(p_tenant, v_tenant);
  BEGIN
    DECLARE EXIT HANDLER FOR 1205
      RESIGNAL SET MESSAGE_TEXT = 'the event is locked by another transaction: try again when that has ended, see docs/admins.md';

    SELECT timer_id, JSON_OBJECT('due_at', CAST(due_at AS CHAR), 'topic',
                                 JSON_UNQUOTE(JSON_EXTRACT(attributes, '$[0].topic')))
      INTO v_id, v_before
      FROM timer
     WHERE tenant_id = v_tenant AND kind = 1 AND subject = CAST(COALESCE(p_subject, '') AS BINARY)
       AND name = CAST(p_name AS BINARY) FOR UPDATE;
  END;
  IF v_id IS NULL THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has no scheduled event ',
                        COALESCE(QUOTE(LEFT(p_name, 40)), 'NULL'), ' of this subject'));
  END IF;
  DELETE FROM timer WHERE timer_id = v_id;
  CALL _audit(v_tenant, 'timer_cancel', CONCAT_WS(' ', NULLIF(p_subject, ''), p_name), v_before,
              NULL);
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS _timer;
CREATE PROCEDURE _timer(
  p_timer_id DECIMAL(65,20),
  p_which VARCHAR(16) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  OUT p_tenant_id INT UNSIGNED,
  OUT p_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'refused: that the database did not take when it was due; scheduled: any scheduled publish; locked'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;

  CALL _between('a timer_id', p_timer_id, 1, 18446744073709551615);
  SELECT tenant_id INTO v_tenant FROM timer WHERE timer_id = p_timer_id;
  CALL _unmoved(v_tenant);
  SET v_tenant = NULL;
  BEGIN
    DECLARE EXIT HANDLER FOR 1205
      RESIGNAL SET MESSAGE_TEXT = 'the event is locked by another transaction: try again when that has ended, see docs/admins.md';

    SELECT tenant_id, JSON_OBJECT('due_at', CAST(due_at AS CHAR), 'topic',
                                  JSON_UNQUOTE(JSON_EXTRACT(attributes, '$[0].topic')),
                                  'subject', CONVERT(subject USING utf8mb4),
                                  'name', CONVERT(name USING utf8mb4),
                                  'refused', CONVERT(refused USING utf8mb4))
      INTO v_tenant, v_before
      FROM timer
     WHERE timer_id = p_timer_id AND IF(p_which = 'refused', refused IS NOT NULL, kind = 1) FOR UPDATE;
  END;
  IF v_tenant IS NULL THEN
    CALL _refuse(CONCAT('there is no ', p_which, ' event ', CAST(p_timer_id AS UNSIGNED), ': see the view timers, ',
                        IF(p_which = 'refused', 'state', 'kind')));
  END IF;
  SET p_tenant_id = v_tenant, p_before = v_before;
END;

DROP PROCEDURE IF EXISTS timer_cancel_id;
CREATE PROCEDURE timer_cancel_id(p_timer_id DECIMAL(65,20))
  COMMENT 'a scheduled publish, by its id, is never published: one without a name too, as of publish_at()'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _begin();
  CALL _timer(p_timer_id, 'scheduled', v_tenant, v_before);
  DELETE FROM timer WHERE timer_id = p_timer_id;
  CALL _audit(v_tenant, 'timer_cancel_id', CAST(CAST(p_timer_id AS UNSIGNED) AS CHAR), v_before, NULL);
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS timer_retry;
CREATE PROCEDURE timer_retry(p_timer_id DECIMAL(65,20))
  COMMENT 'an event that the database did not take when it was due, is due again'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _begin();
  CALL _timer(p_timer_id, 'refused', v_tenant, v_before);
  UPDATE timer SET due_at = UTC_TIMESTAMP(3), refused = NULL WHERE timer_id = p_timer_id;
  CALL _audit(v_tenant, 'timer_retry', CAST(CAST(p_timer_id AS UNSIGNED) AS CHAR), v_before,
              (SELECT JSON_OBJECT('due_at', CAST(due_at AS CHAR)) FROM timer WHERE timer_id = p_timer_id));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS timer_discard;
CREATE PROCEDURE timer_discard(p_timer_id DECIMAL(65,20))
  COMMENT 'an event that the database did not take when it was due, is given up'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _begin();
  CALL _timer(p_timer_id, 'refused', v_tenant, v_before);
  DELETE FROM timer WHERE timer_id = p_timer_id;
  CALL _audit(v_tenant, 'timer_discard', CAST(CAST(p_timer_id AS UNSIGNED) AS CHAR), v_before, NULL);
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS schedule_create;
CREATE PROCEDURE schedule_create(
  p_tenant LONGBLOB,
  p_name LONGBLOB,
  p_cron LONGBLOB,
  p_zone LONGBLOB,
  p_topic LONGBLOB,
  p_content_type LONGBLOB,
  p_payload LONGBLOB)
  COMMENT 'an event at each tick; cron: five fields, @daily .., @every 90s; zone: IANA, null = UTC'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_name, p_cron, p_zone, p_topic, p_content_type);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE p_cron LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_cron USING utf8mb4);
  DECLARE p_zone LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_zone USING utf8mb4);
  DECLARE p_topic LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_topic USING utf8mb4);
  DECLARE p_content_type LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_content_type USING utf8mb4);
  DECLARE v_tenant, v_max_bytes INT UNSIGNED;
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK AND NO CHAIN NO RELEASE;
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has a schedule ', QUOTE(LEFT(p_name, 40)), ' already'));
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  IF p_name IS NULL OR p_name = '' OR LENGTH(p_name) > 255 THEN
    CALL _refuse('a schedule''s name has 1 to 255 bytes');
  END IF;
  IF p_cron IS NULL OR LENGTH(p_cron) > 255 OR p_cron REGEXP '[^ -~]'
     OR p_cron NOT REGEXP CONCAT(
       '^(@every ([0-9]+(ms|s|m|h|d))+|@(hourly|daily|midnight|weekly|monthly|yearly|annually)',
       '|[0-9A-Za-z*,/-]+( +[0-9A-Za-z*,/-]+){4})$') THEN
    CALL _refuse(CONCAT('cron is five fields, @hourly, @daily .. or @every DURATION, not ',
                        COALESCE(QUOTE(LEFT(p_cron, 40)), 'NULL')));
  END IF;
  IF LOWER(p_cron) REGEXP CONCAT(
       '^[^@ ]+ +[^ ]+ +((30|31)(,(30|31))* +(0*2|feb)|31(,31)* +(0*[2469]|11|feb|apr|jun|sep|nov)',
       '(,(0*[2469]|11|feb|apr|jun|sep|nov))*) +[*]') THEN -- others that never tick a node finds, and stops
    CALL _refuse(CONCAT(QUOTE(LEFT(p_cron, 40)), ' never ticks: no month that it names has such a day'));
  END IF;
  IF p_zone = '' OR LENGTH(p_zone) > 64 OR p_zone REGEXP '[^A-Za-z0-9_/+-]' THEN
    CALL _refuse(CONCAT('a zone is an IANA name like Europe/Paris, not ', QUOTE(LEFT(p_zone, 40))));
  END IF;
  IF p_topic IS NULL OR p_topic = '' OR LENGTH(p_topic) > 1024 OR p_topic LIKE '$%'
     OR p_topic REGEXP '[+#]' OR LOCATE(x'00', CAST(p_topic AS BINARY)) THEN
    CALL _refuse(CONCAT('a topic has 1 to 1024 bytes without + and # and does not begin with $: ',
                        COALESCE(QUOTE(LEFT(p_topic, 40)), 'NULL')));
  END IF;
  IF LENGTH(p_topic) - LENGTH(REPLACE(p_topic, '/', '')) > 31 THEN
    CALL _refuse('a topic has up to 32 levels');
  END IF;
  IF LENGTH(p_content_type) > 255 THEN
    CALL _refuse('a content type has up to 255 bytes');
  END IF;
  IF LENGTH(p_payload) > 1048576 THEN
    CALL _refuse(CONCAT('a schedule''s payload has up to 1048576 bytes, not ', LENGTH(p_payload)));
  END IF;
  CALL _begin();
  CALL _live_tenant(p_tenant, v_tenant);
  SELECT max_event_bytes INTO v_max_bytes FROM tenant WHERE tenant_id = v_tenant;
  IF v_max_bytes > 0 AND LENGTH(p_payload) > v_max_bytes THEN
    CALL _refuse(CONCAT('the payload has ', LENGTH(p_payload), ' bytes; this tenant''s events may have ', v_max_bytes));
  END IF;
  INSERT INTO schedule (tenant_id, name, cron, zone, topic, content_type, payload)
  VALUES (v_tenant, p_name, p_cron, COALESCE(p_zone, 'UTC'), p_topic, COALESCE(p_content_type, ''),
          COALESCE(p_payload, ''));
  CALL _audit(v_tenant, 'schedule_create', p_name, NULL,
              JSON_OBJECT('cron', p_cron, 'zone', COALESCE(p_zone, 'UTC'), 'topic', p_topic, 'content_type',
                          COALESCE(p_content_type, ''), 'bytes', COALESCE(LENGTH(p_payload), 0), 'sha256',
                          SHA2(COALESCE(p_payload, ''), 256)));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS _schedule_change;
CREATE PROCEDURE _schedule_change(
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_tenant LONGBLOB,
  p_name LONGBLOB,
  p_state TINYINT UNSIGNED)
  COMMENT 'pause, resume; state null = delete'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_tenant, p_name);
  DECLARE p_tenant LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_tenant USING utf8mb4);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _begin();
  CALL _live_tenant(p_tenant, v_tenant);
  BEGIN
    DECLARE EXIT HANDLER FOR 1205
      RESIGNAL SET MESSAGE_TEXT = 'the schedule is locked by another transaction: try again when that has ended, see docs/admins.md';

    SELECT schedule_id, JSON_OBJECT('state', ELT(state, 'active', 'paused', 'not understood'),
                                    'cron', CONVERT(cron USING utf8mb4), 'ticks', ticks)
      INTO v_id, v_before
      FROM schedule WHERE tenant_id = v_tenant AND name = CAST(p_name AS BINARY) FOR UPDATE;
  END;
  IF v_id IS NULL THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has no schedule ',
                        COALESCE(QUOTE(LEFT(p_name, 40)), 'NULL')));
  END IF;
  IF p_state IS NULL THEN
    DELETE FROM schedule WHERE schedule_id = v_id;
  ELSE
    UPDATE schedule SET state = p_state, next_at = NULL WHERE schedule_id = v_id;
  END IF;
  CALL _audit(v_tenant, p_action, p_name, v_before,
              IF(p_state IS NULL, NULL, JSON_OBJECT('state', ELT(p_state, 'active', 'paused'))));
  COMMIT AND NO CHAIN NO RELEASE;
END;

DROP PROCEDURE IF EXISTS schedule_pause;
CREATE PROCEDURE schedule_pause(
  p_tenant LONGBLOB,
  p_name LONGBLOB)
  COMMENT 'no ticks until schedule_resume'
BEGIN
  CALL _schedule_change('schedule_pause', p_tenant, p_name, 2);
END;

DROP PROCEDURE IF EXISTS schedule_resume;
CREATE PROCEDURE schedule_resume(
  p_tenant LONGBLOB,
  p_name LONGBLOB)
  COMMENT 'ticks from now on; those missed are not made up for'
BEGIN
  CALL _schedule_change('schedule_resume', p_tenant, p_name, 1);
END;

DROP PROCEDURE IF EXISTS schedule_delete;
CREATE PROCEDURE schedule_delete(
  p_tenant LONGBLOB,
  p_name LONGBLOB)
  COMMENT 'what it has published stays'
BEGIN
  CALL _schedule_change('schedule_delete', p_tenant, p_name, NULL);
END;
