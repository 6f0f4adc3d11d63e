-- Events that wait for their time, and cron schedules. The leader looks at both tables by itself.

DROP PROCEDURE IF EXISTS timer_cancel;
CREATE PROCEDURE timer_cancel(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_subject TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'a scheduled publish, by its publisher''s subject and its name, is never published'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _begin();
  CALL _live_tenant(p_tenant, v_tenant);
  SELECT timer_id, JSON_OBJECT('due_at', CAST(due_at AS CHAR), 'topic',
                               JSON_UNQUOTE(JSON_EXTRACT(attributes, '$[0].topic')))
    INTO v_id, v_before
    FROM timer
   WHERE tenant_id = v_tenant AND kind = 1 AND subject = CAST(COALESCE(p_subject, '') AS BINARY)
     AND name = CAST(p_name AS BINARY) FOR UPDATE;
  IF v_id IS NULL THEN
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has no scheduled event ',
                        COALESCE(QUOTE(LEFT(p_name, 40)), 'NULL'), ' of this subject'));
  END IF;
  DELETE FROM timer WHERE timer_id = v_id;
  CALL _audit(v_tenant, 'timer_cancel', CONCAT_WS(' ', NULLIF(p_subject, ''), p_name), v_before,
              NULL);
  COMMIT;
END;

DROP PROCEDURE IF EXISTS schedule_create;
CREATE PROCEDURE schedule_create(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_cron TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_zone TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_topic TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_content_type TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_payload LONGBLOB)
  COMMENT 'an event at each tick; cron: five fields, @daily .., @every 90s; zone: IANA, null = UTC'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE EXIT HANDLER FOR 1062 BEGIN
    ROLLBACK;
    CALL _refuse(CONCAT('tenant ', p_tenant, ' has a schedule ', QUOTE(LEFT(p_name, 40)), ' already'));
  END;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

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
  IF p_zone = '' OR LENGTH(p_zone) > 64 OR p_zone REGEXP '[^A-Za-z0-9_/+-]' THEN
    CALL _refuse(CONCAT('a zone is an IANA name like Europe/Paris, not ', QUOTE(LEFT(p_zone, 40))));
  END IF;
  IF p_topic IS NULL OR p_topic = '' OR LENGTH(p_topic) > 1024 OR p_topic LIKE '$%'
     OR p_topic REGEXP '[+#]' OR LOCATE(x'00', CAST(p_topic AS BINARY)) THEN
    CALL _refuse(CONCAT('a topic has 1 to 1024 bytes without + and # and does not begin with $: ',
                        COALESCE(QUOTE(LEFT(p_topic, 40)), 'NULL')));
  END IF;
  IF LENGTH(p_content_type) > 255 THEN
    CALL _refuse('a content type has up to 255 bytes');
  END IF;
  IF LENGTH(p_payload) > 1048576 THEN
    CALL _refuse(CONCAT('a schedule''s payload has up to 1048576 bytes, not ', LENGTH(p_payload)));
  END IF;
  CALL _begin();
  CALL _live_tenant(p_tenant, v_tenant);
  INSERT INTO schedule (tenant_id, name, cron, zone, topic, content_type, payload)
  VALUES (v_tenant, p_name, p_cron, COALESCE(p_zone, 'UTC'), p_topic, COALESCE(p_content_type, ''),
          COALESCE(p_payload, ''));
  CALL _audit(v_tenant, 'schedule_create', p_name, NULL,
              JSON_OBJECT('cron', p_cron, 'zone', COALESCE(p_zone, 'UTC'), 'topic', p_topic));
  COMMIT;
END;

DROP PROCEDURE IF EXISTS _schedule_change;
CREATE PROCEDURE _schedule_change(
  p_action VARCHAR(64) CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_state TINYINT UNSIGNED)
  COMMENT 'pause, resume; state null = delete'
BEGIN
  DECLARE v_tenant INT UNSIGNED;
  DECLARE v_id BIGINT UNSIGNED;
  DECLARE v_before LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;

  CALL _begin();
  CALL _live_tenant(p_tenant, v_tenant);
  SELECT schedule_id, JSON_OBJECT('state', ELT(state, 'active', 'paused', 'not understood'),
                                  'cron', CONVERT(cron USING utf8mb4), 'ticks', ticks)
    INTO v_id, v_before
    FROM schedule WHERE tenant_id = v_tenant AND name = CAST(p_name AS BINARY) FOR UPDATE;
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
  COMMIT;
END;

DROP PROCEDURE IF EXISTS schedule_pause;
CREATE PROCEDURE schedule_pause(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'no ticks until schedule_resume'
BEGIN
  CALL _schedule_change('schedule_pause', p_tenant, p_name, 2);
END;

DROP PROCEDURE IF EXISTS schedule_resume;
CREATE PROCEDURE schedule_resume(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'ticks from now on; those missed are not made up for'
BEGIN
  CALL _schedule_change('schedule_resume', p_tenant, p_name, 1);
END;

DROP PROCEDURE IF EXISTS schedule_delete;
CREATE PROCEDURE schedule_delete(
  p_tenant TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin,
  p_name TEXT CHARSET utf8mb4 COLLATE utf8mb4_bin)
  COMMENT 'what it has published stays'
BEGIN
  CALL _schedule_change('schedule_delete', p_tenant, p_name, NULL);
END;
