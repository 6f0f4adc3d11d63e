-- What an admin reads at a SQL prompt. One text for MariaDB and MySQL. A view that is a query within a query
-- takes no locks, whatever whoever reads it writes behind it: FOR UPDATE and LOCK IN SHARE MODE do not get to the
-- tables within, whose rows nodes change all the time. (A transaction that is SERIALIZABLE locks them all the
-- same.) MariaDB makes all of such a view before it looks at a LIMIT, so of what may be large it is MySQL's alone.

-- Events as rows. Attributes a publisher left out are absent in the journal and made here, as the
-- node makes them on delivery. Ask for a range with
--   WHERE tenant_id = .. AND partition_id = .. AND base_seq BETWEEN a-1000 AND b AND seq BETWEEN a AND b
-- since only base_seq reaches the primary key (a batch holds at most 1000 events).
CREATE OR REPLACE VIEW event AS /*!80000 SELECT * FROM ( */
SELECT j.tenant_id                                        AS tenant_id,
       CONVERT(t.name USING utf8mb4)                      AS tenant,
       j.partition_id                                     AS partition_id,
       j.base_seq                                         AS base_seq,
       j.base_seq + e.i - 1                               AS seq,
       j.appended_at                                      AS appended_at,
       e.topic                                            AS topic,
       COALESCE(e.q, 1)                                   AS qos,
       COALESCE(e.id, CONCAT(j.partition_id, '-', j.base_seq + e.i - 1))  AS id,
       COALESCE(e.source, CONCAT('mqtt:', e.client))      AS source,
       COALESCE(e.type, 'mqtt.publish')                   AS type,
       COALESCE(e.time, DATE_FORMAT(j.appended_at, '%Y-%m-%dT%H:%i:%s.%fZ')) AS time,
       e.subject                                          AS subject,
       e.event_key                                        AS event_key,
       e.client                                           AS client_id,
       e.ct                                               AS content_type,
       e.pf                                               AS payload_format,
       CAST('1970-01-01' AS DATETIME(3)) + INTERVAL (e.expires_ms * 1000) MICROSECOND AS expires_at,
       e.rt                                               AS response_topic,
       FROM_BASE64(e.cd)                                  AS correlation_data,
       e.corr                                             AS correlation_id,
       e.caus                                             AS causation_id,
       e.up                                               AS user_properties,
       SUBSTRING(j.body, e.o + 1, e.l)                    AS data
  FROM journal j
  JOIN tenant t ON t.tenant_id = j.tenant_id
  JOIN JSON_TABLE(j.attributes, '$[*]' COLUMNS (
         i FOR ORDINALITY,
         topic      TEXT             PATH '$.topic',
         q          INT UNSIGNED     PATH '$.q',
         client     VARCHAR(1024)    PATH '$.client',
         id         VARCHAR(1024)    PATH '$.id',
         source     VARCHAR(1024)    PATH '$.source',
         type       VARCHAR(1024)    PATH '$.type',
         time       VARCHAR(1024)    PATH '$.time',
         subject    VARCHAR(1024)    PATH '$.subject',
         event_key  VARCHAR(1024)    PATH '$.key',
         ct         VARCHAR(1024)    PATH '$.ct',
         pf         INT UNSIGNED     PATH '$.pf',
         expires_ms BIGINT           PATH '$.exp',
         rt         TEXT             PATH '$.rt',
         cd         MEDIUMTEXT       PATH '$.cd',
         up         JSON             PATH '$.up',
         corr       VARCHAR(1024)    PATH '$.corr',
         caus       VARCHAR(1024)    PATH '$.caus',
         o          INT UNSIGNED     PATH '$.o',
         l          INT UNSIGNED     PATH '$.l')) AS e /*!80000 ) v */;

-- Subscriptions with how far behind they are: one row per partition, lag from the head alone. One that
-- has still to finish a layout of the tenant's partitions has all of those after it before it.
CREATE OR REPLACE VIEW subscription_lag AS SELECT * FROM (
SELECT s.tenant_id                              AS tenant_id,
       CONVERT(t.name USING utf8mb4)            AS tenant,
       s.subscription_id                        AS subscription_id,
       CASE s.kind WHEN 1 THEN 'session' WHEN 2 THEN 'share' WHEN 3 THEN 'queue' END AS kind,
       CONVERT(s.subject USING utf8mb4)         AS subject,
       CONVERT(s.name USING utf8mb4)            AS name,
       CASE s.state WHEN 1 THEN 'active' WHEN 2 THEN 'paused' WHEN 3 THEN 'ended' END AS state,
       s.filters                                AS filters,
       LOWER(HEX(s.owner))                      AS owner,
       s.epoch                                  AS epoch,
       s.expires_at                             AS expires_at,
       h.partition_id                           AS partition_id,
       COALESCE(c.acked_through, 0)             AS acked_through,
       h.next_seq                               AS next_seq,
       CAST(GREATEST(h.next_seq, COALESCE(c.acked_through, 0) + 1) - COALESCE(c.acked_through, 0) - 1
            AS UNSIGNED)                        AS behind
  FROM subscription s
  JOIN tenant t ON t.tenant_id = s.tenant_id
  JOIN head h ON h.tenant_id = s.tenant_id
  LEFT JOIN cursors c ON c.tenant_id = s.tenant_id AND c.subscription_id = s.subscription_id
       AND c.partition_id = h.partition_id
 WHERE c.partition_id IS NOT NULL
    OR h.layout > (SELECT MAX(m.partition_id) FROM cursors m
                    WHERE m.tenant_id = s.tenant_id AND m.subscription_id = s.subscription_id)) v;
