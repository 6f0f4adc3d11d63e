-- The journal and what owns it: tenants, keys, node sessions, writers, heads, batches, subscriptions,
-- cursors. Names are VARBINARY (compared byte by byte: no case folding, no PAD SPACE). Every time is UTC.
-- Every statement can be run again, so a step that failed half-way is simply repeated.

CREATE TABLE IF NOT EXISTS tenant (
  tenant_id      INT UNSIGNED      NOT NULL AUTO_INCREMENT COMMENT 'never reused',
  name           VARBINARY(64)     NOT NULL COMMENT 'unique for ever, also after deletion',
  state          TINYINT UNSIGNED  NOT NULL DEFAULT 1 COMMENT '1 active, 2 suspended, 3 deleted',
  weight         SMALLINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'share of a flush relative to other tenants',
  partitions     SMALLINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'heads in use: partition_id first_partition .. first_partition + partitions - 1',
  max_connections      INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'this and below: 0 = the node default',
  max_events_per_s     INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'publish rate, events',
  max_bytes_per_s      BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'publish rate, payload bytes',
  max_event_bytes      INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'payload of one event',
  max_subscriptions    INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'durable ones, and sessions that end with their connection',
  max_stored_bytes     BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'attribute and payload bytes in the journal',
  max_backlog_events   BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'per subscription, oldest given up first',
  retention_s          INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'age at which events may go',
  max_filters          INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'topic filters of one session, at most 100',
  max_in_flight        INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'deliveries to one connection not acknowledged yet, at most 1024',
  max_backlog_s        INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'per subscription: older events are given up',
  max_scheduled        INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'events that wait for their time',
  max_dead_letters     INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'of all its queues; at it what fails is tried again instead',
  created_at     DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  full_since     DATETIME(3)       NULL COMMENT 'written by retention: publishes are refused, because a pinned queue holds max_stored_bytes',
  first_partition SMALLINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'of the heads in use; a change of partitions takes fresh ones, never used before',
  name_text      VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin GENERATED ALWAYS AS (CONVERT(name USING utf8mb4)) VIRTUAL COMMENT 'for views that are asked for one tenant: by key',
  PRIMARY KEY (tenant_id),
  UNIQUE KEY tenant_name (name),
  KEY tenant_name_text (name_text),
  KEY tenant_full (full_since)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='an isolated namespace';

CREATE TABLE IF NOT EXISTS tenant_key (
  issuer         VARBINARY(255)    NOT NULL COMMENT 'the iss claim it verifies',
  kid            VARBINARY(128)    NOT NULL COMMENT 'the kid header it verifies',
  tenant_id      INT UNSIGNED      NOT NULL COMMENT 'whose tokens these are: the only source of the tenant',
  alg            VARBINARY(16)     NOT NULL COMMENT 'HS256, RS256, ES256 ...: the only one accepted',
  key_material   BLOB              NOT NULL COMMENT 'PEM public key, the raw secret of an HS key, or either as a JWK',
  state          TINYINT UNSIGNED  NOT NULL DEFAULT 1 COMMENT '1 active, 2 revoked',
  created_at     DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  PRIMARY KEY (issuer, kid),
  KEY tenant_key_tenant (tenant_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='which key verifies which tenant';

CREATE TABLE IF NOT EXISTS change_counter (
  id             TINYINT UNSIGNED  NOT NULL COMMENT '1 tenants and keys, 2 revocations, 3 issuers, 4 certificates',
  changes        BIGINT UNSIGNED   NOT NULL COMMENT 'raised in the transaction of every admin change; nodes poll it',
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='has anything changed?';

INSERT INTO change_counter (id, changes) VALUES (1, 0) ON DUPLICATE KEY UPDATE id = id;

CREATE TABLE IF NOT EXISTS node_session (
  session_id     BINARY(16)        NOT NULL COMMENT 'random, one per life of a node, never reused',
  name           VARBINARY(128)    NOT NULL COMMENT 'for people: host name, worker number',
  peer           VARBINARY(255)    NOT NULL DEFAULT '' COMMENT 'HOST:PORT where other nodes reach it; empty = nowhere',
  state          TINYINT UNSIGNED  NOT NULL DEFAULT 1 COMMENT '1 live, 0 ended for good',
  renewals       BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'still standing = not alive; no clock decides',
  taken          BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'subscriptions that others took by force',
  max_subscriptions INT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'its --max-subscriptions, which procedures keep too; 0 = none',
  started_at     DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  ended_at       DATETIME(3)       NULL COMMENT 'set with state 0',
  ended_minutes  SMALLINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'since then, as leaders counted them; no clock decides',
  live_name      VARBINARY(128)    GENERATED ALWAYS AS (CASE WHEN state = 1 THEN name END) VIRTUAL COMMENT 'one live session per name, also between two that open at once',
  PRIMARY KEY (session_id),
  UNIQUE KEY node_session_name (live_name),
  KEY node_session_state (state)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='one life of a node';

CREATE TABLE IF NOT EXISTS writer (
  session_id     BINARY(16)        NOT NULL COMMENT 'the node session it belongs to',
  writer_no      TINYINT UNSIGNED  NOT NULL COMMENT '0, 1 ..: one connection each',
  flush_no       BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'of the last committed flush',
  fence          BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'raised to shut out a flush whose COMMIT got lost',
  state          TINYINT UNSIGNED  NOT NULL DEFAULT 1 COMMENT '1 may append, 0 ended with its session',
  PRIMARY KEY (session_id, writer_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='the right to append, and how far it got';

CREATE TABLE IF NOT EXISTS head (
  tenant_id      INT UNSIGNED      NOT NULL,
  partition_id   SMALLINT UNSIGNED NOT NULL,
  next_seq       BIGINT UNSIGNED   NOT NULL DEFAULT 1 COMMENT 'the number the next event gets; the first is 1',
  bytes          BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'attribute and payload bytes ever appended',
  first_seq      BIGINT UNSIGNED   NOT NULL DEFAULT 1 COMMENT 'retention took everything below',
  removed_bytes  BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'of bytes: what retention took',
  layout         SMALLINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'first partition_id of those made with it; readers finish one layout before the next',
  sealed_at      DATETIME(3)       NULL COMMENT 'a later layout took over: nothing is appended here any more',
  PRIMARY KEY (tenant_id, partition_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='where a partition ends';

CREATE TABLE IF NOT EXISTS journal (
  tenant_id      INT UNSIGNED      NOT NULL,
  partition_id   SMALLINT UNSIGNED NOT NULL,
  base_seq       BIGINT UNSIGNED   NOT NULL COMMENT 'number of the first event of the batch',
  event_count    SMALLINT UNSIGNED NOT NULL COMMENT 'events in the batch, 1 .. 1000, numbered without holes',
  appended_at    DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)) COMMENT 'UTC, when the row was inserted',
  end_bytes      BIGINT UNSIGNED   NOT NULL COMMENT 'head.bytes after this batch: what lies between two batches',
  session_id     BINARY(16)        NOT NULL COMMENT 'who wrote it: node session,',
  writer_no      TINYINT UNSIGNED  NOT NULL COMMENT 'writer',
  flush_no       BIGINT UNSIGNED   NOT NULL COMMENT 'and flush',
  attributes     LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'JSON array, an object per event; keys in the view event',
  body           LONGBLOB          NOT NULL COMMENT 'the payloads, end to end',
  PRIMARY KEY (tenant_id, partition_id, base_seq)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='one row per batch of events';

CREATE TABLE IF NOT EXISTS subscription (
  tenant_id       INT UNSIGNED     NOT NULL,
  subscription_id BIGINT UNSIGNED  NOT NULL AUTO_INCREMENT COMMENT 'unique in the whole schema',
  kind            TINYINT UNSIGNED NOT NULL COMMENT '1 session (MQTT client), 2 share, 3 queue',
  subject         VARBINARY(255)   NOT NULL COMMENT 'whose client id it is (sub claim); empty for share and queue',
  name            VARBINARY(1024)  NOT NULL COMMENT 'client id; NAME/filter of a share; queue name',
  filters         LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'JSON array, an object per filter',
  expiry_s        INT UNSIGNED     NOT NULL COMMENT 'kept this long without a consumer; 4294967295 = for ever',
  state           TINYINT UNSIGNED NOT NULL DEFAULT 1 COMMENT '1 active, 2 paused, 3 ended',
  max_attempts    INT UNSIGNED     NOT NULL DEFAULT 10 COMMENT 'queue, this and below: deliveries of one event, then it is a dead letter',
  ack_timeout_ms  INT UNSIGNED     NOT NULL DEFAULT 30000 COMMENT 'a consumer that holds an event longer is cut off',
  backoff_ms      INT UNSIGNED     NOT NULL DEFAULT 1000 COMMENT 'pause after the first failed attempt, doubled by each',
  backoff_max_ms  INT UNSIGNED     NOT NULL DEFAULT 600000 COMMENT 'up to this',
  max_failed      INT UNSIGNED     NOT NULL DEFAULT 1000 COMMENT 'events waiting to be tried again; at this the cursor waits',
  ordered         TINYINT UNSIGNED NOT NULL DEFAULT 0 COMMENT '1: a failing event holds back the later ones of its key',
  pin             TINYINT UNSIGNED NOT NULL DEFAULT 0 COMMENT '1: retention waits for it, publishes are refused at the limit',
  owner           BINARY(16)       NULL COMMENT 'node session that delivers it; null or not live = free',
  epoch           BIGINT UNSIGNED  NOT NULL DEFAULT 0 COMMENT 'raised by every claim and every change from outside',
  settlements     BIGINT UNSIGNED  NOT NULL DEFAULT 0 COMMENT 'queue: raised first in every transaction that moves failed events',
  created_at      DATETIME(3)      NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  expires_at      DATETIME(3)      NULL COMMENT 'UTC; set while it has no consumer and will expire',
  PRIMARY KEY (tenant_id, subscription_id),
  UNIQUE KEY subscription_id (subscription_id),
  UNIQUE KEY subscription_name (tenant_id, kind, subject, name),
  KEY subscription_owner (owner),
  KEY subscription_expires (expires_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='a named durable reader';

CREATE TABLE IF NOT EXISTS cursors (
  tenant_id       INT UNSIGNED      NOT NULL,
  subscription_id BIGINT UNSIGNED   NOT NULL,
  partition_id    SMALLINT UNSIGNED NOT NULL,
  owner           BINARY(16)        NULL COMMENT 'copy of subscription.owner: the commit checks it here',
  epoch           BIGINT UNSIGNED   NOT NULL COMMENT 'copy of subscription.epoch: likewise',
  commit_no       BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'raised by each commit: no write lands twice or late',
  acked_through   BIGINT UNSIGNED   NOT NULL COMMENT 'every event up to and with this one is done',
  acked_ahead     BLOB              NOT NULL COMMENT 'ranges done beyond it, packed; empty = none',
  gap_from        BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'from here, and below gap_to, events went undelivered, and a delivery has to say so; 0 = none',
  gap_to          BIGINT UNSIGNED   NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, subscription_id, partition_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='how far a subscription is in a partition';
