-- What an admin looks at. Text is text here and ids have names beside them. No view counts events: what
-- is said of them comes from the heads. They run with the rights of the account that migrated, so that
-- who may read them need not be able to read a table: no key's secret can be read in any of them.

CREATE OR REPLACE VIEW tenants AS SELECT * FROM (
SELECT tenant_id,
       CONVERT(name USING utf8mb4)                       AS name,
       ELT(state, 'active', 'suspended', 'deleted')      AS state,
       weight, partitions, max_connections, max_events_per_s, max_bytes_per_s, max_event_bytes,
       max_subscriptions, max_stored_bytes, max_backlog_events, retention_s, max_filters, max_in_flight,
       max_backlog_s, max_scheduled, max_dead_letters, created_at
  FROM tenant) v;

-- Of a key what is public, and nothing else that may stand beside it.
CREATE OR REPLACE VIEW tenant_keys AS SELECT * FROM (
SELECT k.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       CONVERT(k.issuer USING utf8mb4)                   AS issuer,
       CONVERT(k.kid USING utf8mb4)                      AS kid,
       CONVERT(k.alg USING utf8mb4)                      AS alg,
       ELT(k.state, 'active', 'retired')                 AS state,
       CASE WHEN k.alg LIKE 'HS%' THEN NULL
            WHEN LOCATE('-----BEGIN PUBLIC KEY-----', k.key_material) THEN
              CONCAT('-----BEGIN PUBLIC KEY-----',
                     SUBSTRING_INDEX(SUBSTRING_INDEX(CONVERT(k.key_material USING utf8mb4),
                                                     '-----BEGIN PUBLIC KEY-----', -1),
                                     '-----END PUBLIC KEY-----', 1), '-----END PUBLIC KEY-----')
            WHEN NOT JSON_VALID(CONVERT(k.key_material USING utf8mb4)) THEN NULL
            WHEN k.alg IN ('RS256', 'PS256') THEN
              JSON_OBJECT('kty', 'RSA', 'n', JSON_EXTRACT(CONVERT(k.key_material USING utf8mb4), '$.n'),
                          'e', JSON_EXTRACT(CONVERT(k.key_material USING utf8mb4), '$.e'))
            WHEN k.alg = 'ES256' THEN
              JSON_OBJECT('kty', 'EC', 'crv', 'P-256',
                          'x', JSON_EXTRACT(CONVERT(k.key_material USING utf8mb4), '$.x'),
                          'y', JSON_EXTRACT(CONVERT(k.key_material USING utf8mb4), '$.y'))
            ELSE JSON_OBJECT('kty', 'OKP', 'crv', 'Ed25519',
                             'x', JSON_EXTRACT(CONVERT(k.key_material USING utf8mb4), '$.x'))
       END                                               AS public_key,
       k.created_at                                      AS created_at
  FROM tenant_key k
  JOIN tenant t ON t.tenant_id = k.tenant_id) v;

-- A row per subscription; how far it is in each partition is in subscription_lag.
CREATE OR REPLACE VIEW subscriptions AS SELECT * FROM (
SELECT s.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       s.subscription_id                                 AS subscription_id,
       ELT(s.kind, 'session', 'share', 'queue')          AS kind,
       CONVERT(s.subject USING utf8mb4)                  AS subject,
       CONVERT(s.name USING utf8mb4)                     AS name,
       ELT(s.state, 'active', 'paused', 'ended')         AS state,
       s.filters                                         AS filters,
       s.max_attempts                                    AS max_attempts,
       s.ack_timeout_ms                                  AS ack_timeout_ms,
       s.backoff_ms                                      AS backoff_ms,
       s.backoff_max_ms                                  AS backoff_max_ms,
       s.max_failed                                      AS max_failed,
       s.ordered                                         AS ordered,
       s.pin                                             AS pin,
       CONVERT(n.name USING utf8mb4)                     AS node,
       s.epoch                                           AS epoch,
       s.created_at                                      AS created_at,
       s.expires_at                                      AS expires_at
  FROM subscription s
  JOIN tenant t ON t.tenant_id = s.tenant_id
  LEFT JOIN node_session n ON n.session_id = s.owner AND n.state = 1) v;

-- The nodes that live. A node whose renewals stand still between two looks is not well.
CREATE OR REPLACE VIEW nodes AS SELECT * FROM (
SELECT LOWER(HEX(session_id))                            AS session_id,
       CONVERT(name USING utf8mb4)                       AS name,
       CONVERT(peer USING utf8mb4)                       AS peer,
       renewals, started_at
  FROM node_session
 WHERE state = 1) v;

CREATE OR REPLACE VIEW dead_letters AS /*!80000 SELECT * FROM ( */
SELECT d.dead_letter_id                                  AS dead_letter_id,
       d.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       d.subscription_id                                 AS subscription_id,
       ELT(s.kind, 'session', 'share', 'queue')          AS kind,
       CONVERT(s.name USING utf8mb4)                     AS name,
       d.partition_id                                    AS partition_id,
       d.seq                                             AS seq,
       d.attempt                                         AS attempt,
       CONVERT(d.reason USING utf8mb4)                   AS reason,
       d.history                                         AS history,
       d.died_at                                         AS died_at,
       JSON_UNQUOTE(JSON_EXTRACT(d.attributes, '$[0].topic')) AS topic,
       d.attributes                                      AS attributes,
       d.body                                            AS data,
       CONVERT(d.body USING utf8mb4)                     AS payload
  FROM dead_letter d
  JOIN tenant t ON t.tenant_id = d.tenant_id
  LEFT JOIN subscription s ON s.tenant_id = d.tenant_id AND s.subscription_id = d.subscription_id /*!80000 ) v */;

CREATE OR REPLACE VIEW timers AS /*!80000 SELECT * FROM ( */
SELECT r.timer_id                                        AS timer_id,
       ELT(r.kind, 'scheduled', 'will', 'retry', 'parked') AS kind,
       r.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       CONVERT(r.subject USING utf8mb4)                  AS subject,
       CONVERT(r.name USING utf8mb4)                     AS name,
       r.due_at                                          AS due_at,
       IF(r.refused IS NULL, 'waiting', 'refused')       AS state,
       CONVERT(r.refused USING utf8mb4)                  AS refused,
       r.subscription_id                                 AS subscription_id,
       CONVERT(s.name USING utf8mb4)                     AS subscription,
       r.attempt                                         AS attempt,
       r.history                                         AS history,
       r.created_at                                      AS created_at,
       JSON_UNQUOTE(JSON_EXTRACT(r.attributes, '$[0].topic')) AS topic,
       r.attributes                                      AS attributes,
       r.body                                            AS data,
       CONVERT(r.body USING utf8mb4)                     AS payload
  FROM timer r
  JOIN tenant t ON t.tenant_id = r.tenant_id
  LEFT JOIN subscription s ON s.tenant_id = r.tenant_id AND s.subscription_id = r.subscription_id /*!80000 ) v */;

CREATE OR REPLACE VIEW schedules AS SELECT * FROM (
SELECT c.schedule_id                                     AS schedule_id,
       c.tenant_id                                       AS tenant_id,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       CONVERT(c.name USING utf8mb4)                     AS name,
       CONVERT(c.cron USING utf8mb4)                     AS cron,
       CONVERT(c.zone USING utf8mb4)                     AS zone,
       ELT(c.state, 'active', 'paused', 'not understood') AS state,
       c.next_at                                         AS next_at,
       c.ticks                                           AS ticks,
       CONVERT(c.topic USING utf8mb4)                    AS topic,
       CONVERT(c.content_type USING utf8mb4)             AS content_type,
       CONVERT(c.payload USING utf8mb4)                  AS payload,
       c.created_at                                      AS created_at
  FROM schedule c
  JOIN tenant t ON t.tenant_id = c.tenant_id) v;

CREATE OR REPLACE VIEW audit_log AS /*!80000 SELECT * FROM ( */
SELECT a.audit_id                                        AS audit_id,
       a.at                                              AS at,
       CONVERT(a.who USING utf8mb4)                      AS who,
       CONVERT(t.name USING utf8mb4)                     AS tenant,
       CONVERT(a.action USING utf8mb4)                   AS action,
       CONVERT(a.target USING utf8mb4)                   AS target,
       a.detail                                          AS detail
  FROM audit a
  LEFT JOIN tenant t ON t.tenant_id = a.tenant_id /*!80000 ) v */;
