-- What each node has and does for each tenant, as it says itself: at most twice a second, and nothing
-- when nothing has changed. Who reads it counts the rows of live node sessions alone; the others' are
-- removed by the role retention.

CREATE TABLE IF NOT EXISTS node_tenant (
  session_id     BINARY(16)        NOT NULL COMMENT 'the node session that says it',
  tenant_id      INT UNSIGNED      NOT NULL,
  connections    INT UNSIGNED      NOT NULL COMMENT 'clients connected now',
  durable_connections INT UNSIGNED NOT NULL COMMENT 'of these: whose session is kept when they leave',
  subscriptions  INT UNSIGNED      NOT NULL COMMENT 'sessions, shares and queues served there now',
  ephemeral_subscriptions INT UNSIGNED NOT NULL COMMENT 'of these: without a row in subscription',
  events_in      BIGINT UNSIGNED   NOT NULL COMMENT 'this and below: since the node session began; publishes taken in',
  bytes_in       BIGINT UNSIGNED   NOT NULL COMMENT 'their payloads',
  events_out     BIGINT UNSIGNED   NOT NULL COMMENT 'deliveries sent to clients',
  bytes_out      BIGINT UNSIGNED   NOT NULL COMMENT 'their payloads',
  refused        BIGINT UNSIGNED   NOT NULL COMMENT 'what a limit of the tenant refused',
  reported_at    DATETIME(3)       NOT NULL COMMENT 'UTC, of the last change',
  PRIMARY KEY (session_id, tenant_id),
  KEY node_tenant_tenant (tenant_id, session_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='what a node has and does for a tenant';

-- Who is connected where: a row per node and tenant that has been there since the node began.
CREATE OR REPLACE VIEW connections AS SELECT * FROM (
SELECT c.tenant_id                                       AS tenant_id,
       t.name_text                                       AS tenant,
       CONVERT(n.name USING utf8mb4)                     AS node,
       c.connections                                     AS connections,
       c.durable_connections                             AS durable,
       CAST(c.connections - c.durable_connections AS UNSIGNED) AS ephemeral,
       c.subscriptions                                   AS subscriptions,
       c.events_in                                       AS events_in,
       c.bytes_in                                        AS bytes_in,
       c.events_out                                      AS events_out,
       c.bytes_out                                       AS bytes_out,
       c.refused                                         AS refused,
       c.reported_at                                     AS reported_at,
       LOWER(HEX(c.session_id))                          AS session_id
  FROM node_tenant c
  JOIN node_session n ON n.session_id = c.session_id AND n.state = 1
  JOIN tenant t ON t.tenant_id = c.tenant_id AND t.state <> 3) v;

-- A row per tenant, from its heads and what the nodes say of it. full_since: its publishes are refused,
-- because a pinned queue holds max_stored_bytes. Connections and subscriptions are those of now; what
-- went in and out is counted since the nodes that live began. Grouped once, over each head with each node
-- (which is divided out again): a condition on the tenant gets to the tables, as it would not through
-- derived tables that are joined.
CREATE OR REPLACE VIEW tenant_usage AS
SELECT t.tenant_id                                       AS tenant_id,
       t.name_text                                       AS tenant,
       CAST(SUM(h.next_seq - 1) DIV GREATEST(COUNT(DISTINCT c.session_id), 1) AS UNSIGNED) AS events_ever,
       CAST(SUM(h.next_seq - h.first_seq) DIV GREATEST(COUNT(DISTINCT c.session_id), 1) AS UNSIGNED) AS events_stored,
       CAST(SUM(h.bytes) DIV GREATEST(COUNT(DISTINCT c.session_id), 1) AS UNSIGNED) AS bytes_ever,
       CAST(SUM(h.bytes - h.removed_bytes) DIV GREATEST(COUNT(DISTINCT c.session_id), 1) AS UNSIGNED) AS bytes_stored,
       t.max_stored_bytes                                AS max_stored_bytes,
       t.full_since                                      AS full_since,
       CAST(COALESCE(SUM(c.connections), 0) DIV COUNT(DISTINCT h.partition_id) AS UNSIGNED) AS connections,
       CAST(COALESCE(SUM(c.subscriptions), 0) DIV COUNT(DISTINCT h.partition_id) AS UNSIGNED) AS subscriptions,
       CAST(COALESCE(SUM(c.events_in), 0) DIV COUNT(DISTINCT h.partition_id) AS UNSIGNED) AS events_in,
       CAST(COALESCE(SUM(c.bytes_in), 0) DIV COUNT(DISTINCT h.partition_id) AS UNSIGNED) AS bytes_in,
       CAST(COALESCE(SUM(c.events_out), 0) DIV COUNT(DISTINCT h.partition_id) AS UNSIGNED) AS events_out,
       CAST(COALESCE(SUM(c.bytes_out), 0) DIV COUNT(DISTINCT h.partition_id) AS UNSIGNED) AS bytes_out,
       CAST(COALESCE(SUM(c.refused), 0) DIV COUNT(DISTINCT h.partition_id) AS UNSIGNED) AS refused
  FROM tenant t
  JOIN head h ON h.tenant_id = t.tenant_id
  LEFT JOIN (node_tenant c JOIN node_session n ON n.session_id = c.session_id AND n.state = 1)
    ON c.tenant_id = t.tenant_id
 GROUP BY t.tenant_id, t.name_text, t.max_stored_bytes, t.full_since;
