-- The partitions of a tenant, changed while its events flow. A change makes new heads, under numbers that
-- were never used, and seals the old ones in the same transaction: a node that has not heard of it finds
-- that it can append to none of those, and places its events anew. Each reader finishes the old partitions
-- before it begins the new ones, so that every topic keeps its order.

DROP PROCEDURE IF EXISTS _layouts_forget;
CREATE PROCEDURE _layouts_forget(p_tenant_id INT UNSIGNED)
  COMMENT 'sealed partitions, oldest first, that are empty and that nobody has still to go through'
BEGIN
  DECLARE v_needed, v_filled INT UNSIGNED;

  SELECT MIN(partition_id) INTO v_needed FROM cursors WHERE tenant_id = p_tenant_id;
  SELECT MIN(layout) INTO v_filled FROM head
   WHERE tenant_id = p_tenant_id AND (sealed_at IS NULL OR first_seq < next_seq);
  DELETE FROM head
   WHERE tenant_id = p_tenant_id AND partition_id < LEAST(COALESCE(v_needed, v_filled), v_filled);
END;

DROP PROCEDURE IF EXISTS tenant_set_partitions;
CREATE PROCEDURE tenant_set_partitions(
  p_name LONGBLOB,
  p_partitions DECIMAL(65,20))
  COMMENT 'how many partitions its events are spread over, 1 to 64; see the view tenant_partitions'
BEGIN
  DECLARE v_texts LONGBLOB DEFAULT CONCAT_WS(' ', p_name);
  DECLARE p_name LONGTEXT CHARSET utf8mb4 COLLATE utf8mb4_bin DEFAULT CONVERT(p_name USING utf8mb4);
  DECLARE v_id INT UNSIGNED;
  DECLARE v_before INT UNSIGNED;
  DECLARE v_first INT UNSIGNED;
  DECLARE v_i INT UNSIGNED DEFAULT 0;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK AND NO CHAIN NO RELEASE; RESIGNAL; END;

  CALL _utf8_check(v_texts);
  CALL _between('partitions', p_partitions, 1, 64);
  CALL _begin();
  CALL _live_tenant(p_name, v_id);
  SELECT partitions INTO v_before FROM tenant WHERE tenant_id = v_id;
  IF v_before = p_partitions THEN
    COMMIT AND NO CHAIN NO RELEASE;
  ELSE
    CALL _layouts_forget(v_id);
    SELECT COALESCE(MAX(partition_id) + 1, 0) INTO v_first FROM head WHERE tenant_id = v_id;
    IF v_first + p_partitions > 65535 THEN
      CALL _refuse(CONCAT('tenant ', p_name, ' has used ', v_first,
                          ' partitions, each number once, and may use 65535'));
    END IF;
    WHILE v_i < p_partitions DO
      INSERT INTO head (tenant_id, partition_id, layout) VALUES (v_id, v_first + v_i, v_first);
      SET v_i = v_i + 1;
    END WHILE;
    UPDATE head SET sealed_at = UTC_TIMESTAMP(3)
     WHERE tenant_id = v_id AND partition_id < v_first AND sealed_at IS NULL;
    UPDATE tenant SET partitions = p_partitions, first_partition = v_first WHERE tenant_id = v_id;
    CALL _audit(v_id, 'tenant_set_partitions', p_name,
                JSON_OBJECT('partitions', v_before + 0),
                JSON_OBJECT('partitions', CAST(p_partitions AS UNSIGNED), 'first_partition', v_first + 0));
    CALL _changed();
  END IF;
END;

-- Where a tenant's events are. Of a sealed partition: how many subscriptions have still to finish its
-- layout. When they have, and retention has taken its events, the next change removes it.
CREATE OR REPLACE VIEW tenant_partitions AS SELECT * FROM (
SELECT h.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       h.partition_id                                    AS partition_id,
       h.layout                                          AS layout,
       IF(h.sealed_at IS NULL, 'open', 'sealed')         AS state,
       h.sealed_at                                       AS sealed_at,
       h.first_seq                                       AS first_seq,
       h.next_seq                                        AS next_seq,
       h.bytes - h.removed_bytes                         AS stored_bytes,
       IF(h.sealed_at IS NULL, NULL,
          (SELECT COUNT(*) FROM cursors c
            WHERE c.tenant_id = h.tenant_id AND c.partition_id = h.partition_id)) AS subscriptions_left
  FROM head h
  JOIN tenant t ON t.tenant_id = h.tenant_id) v;
