-- What one node does for all (roles), what waits for its time (timers, schedules), what a queue gave up
-- on (dead letters), and what admins and the nodes did (audit).

CREATE TABLE IF NOT EXISTS role (
  role           TINYINT UNSIGNED  NOT NULL COMMENT '1 timers, 2 retention, 3 inbox, 4 issuers',
  owner          BINARY(16)        NULL COMMENT 'node session that has it; null or not live = free',
  epoch          BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'raised by every claim',
  writes         BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'raised first in every transaction made in the role',
  PRIMARY KEY (role)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='what one node does for all';

INSERT INTO role (role) VALUES (1), (2) ON DUPLICATE KEY UPDATE role = VALUES(role);

CREATE TABLE IF NOT EXISTS timer (
  timer_id        BIGINT UNSIGNED  NOT NULL AUTO_INCREMENT,
  kind            TINYINT UNSIGNED NOT NULL COMMENT '1 scheduled publish, 2 will, 3 retry, 4 parked behind an earlier event of its key',
  tenant_id       INT UNSIGNED     NOT NULL,
  subscription_id BIGINT UNSIGNED  NOT NULL DEFAULT 0 COMMENT 'retry, parked: whose; 0 = the leader moves it into the journal',
  due_at          DATETIME(3)      NULL COMMENT 'UTC; null = not before something else happens',
  subject         VARBINARY(255)   NOT NULL DEFAULT '' COMMENT 'scheduled publish, will: whose name it is (sub claim)',
  name            VARBINARY(255)   NULL COMMENT 'scheduled publish: its name, to cancel or replace it; will: client id',
  session_id      BINARY(16)       NULL COMMENT 'will: the node session its client is connected to',
  delay_ms        BIGINT UNSIGNED  NOT NULL DEFAULT 0 COMMENT 'will: due this long after its client was lost',
  will_expiry_ms  BIGINT UNSIGNED  NOT NULL DEFAULT 0 COMMENT 'will: message expiry, counted from when it is published; 0 = none',
  partition_id    SMALLINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'retry, parked: where the event was published; else where it goes',
  seq             BIGINT UNSIGNED  NOT NULL DEFAULT 0 COMMENT 'and its number there; will: its random id',
  attempt         INT UNSIGNED     NOT NULL DEFAULT 0 COMMENT 'attempts made so far',
  ordering        VARBINARY(1024)  NOT NULL DEFAULT '' COMMENT 'ordered queue: the event''s key, else its topic',
  history         LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'JSON array, an object per failed attempt: at, reason',
  refused         VARBINARY(255)   NULL COMMENT 'why the database does not take it into the journal; then it has no due_at: see timer_retry',
  created_at      DATETIME(3)      NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  attributes      LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'as in journal, of one event',
  body            LONGBLOB         NOT NULL COMMENT 'its payload',
  PRIMARY KEY (timer_id),
  UNIQUE KEY timer_name (tenant_id, kind, subject, name),
  KEY timer_due (subscription_id, due_at, timer_id, tenant_id), -- of whom many rows may have to be passed over
  KEY timer_tenant (subscription_id, tenant_id, due_at, timer_id),
  KEY timer_session (session_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='an event waiting for its time';

CREATE TABLE IF NOT EXISTS schedule (
  schedule_id    BIGINT UNSIGNED   NOT NULL AUTO_INCREMENT,
  tenant_id      INT UNSIGNED      NOT NULL,
  name           VARBINARY(255)    NOT NULL,
  cron           VARBINARY(255)    NOT NULL COMMENT 'five fields, or @every DURATION',
  zone           VARBINARY(64)     NOT NULL DEFAULT 'UTC' COMMENT 'IANA time zone the fields are read in',
  state          TINYINT UNSIGNED  NOT NULL DEFAULT 1 COMMENT '1 active, 2 paused, 3 not understood: see audit',
  next_at        DATETIME(3)       NULL COMMENT 'UTC, of its next tick; null = to be computed',
  ticks          BIGINT UNSIGNED   NOT NULL DEFAULT 0 COMMENT 'published so far',
  topic          VARBINARY(1024)   NOT NULL,
  content_type   VARBINARY(255)    NOT NULL DEFAULT '',
  payload        LONGBLOB          NOT NULL,
  created_at     DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  PRIMARY KEY (schedule_id),
  UNIQUE KEY schedule_name (tenant_id, name),
  KEY schedule_next (state, next_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='a cron schedule: one event per tick';

CREATE TABLE IF NOT EXISTS dead_letter (
  dead_letter_id  BIGINT UNSIGNED  NOT NULL AUTO_INCREMENT,
  tenant_id       INT UNSIGNED     NOT NULL,
  subscription_id BIGINT UNSIGNED  NOT NULL,
  partition_id    SMALLINT UNSIGNED NOT NULL COMMENT 'where the event was published',
  seq             BIGINT UNSIGNED  NOT NULL COMMENT 'and its number there',
  attempt         INT UNSIGNED     NOT NULL COMMENT 'attempts made',
  reason          VARBINARY(255)   NOT NULL COMMENT 'why the last one failed',
  history         LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'JSON array, an object per failed attempt: at, reason',
  died_at         DATETIME(3)      NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  attributes      LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'as in journal, of one event',
  body            LONGBLOB         NOT NULL COMMENT 'its payload',
  PRIMARY KEY (dead_letter_id),
  KEY dead_letter_subscription (tenant_id, subscription_id, dead_letter_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='an event a queue gave up on';

CREATE TABLE IF NOT EXISTS audit (
  audit_id       BIGINT UNSIGNED   NOT NULL AUTO_INCREMENT,
  at             DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  who            VARBINARY(255)    NOT NULL COMMENT 'database user, or node:NAME',
  tenant_id      INT UNSIGNED      NOT NULL DEFAULT 0 COMMENT '0 = of no tenant',
  action         VARBINARY(64)     NOT NULL,
  target         VARBINARY(1024)   NOT NULL,
  detail         LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'JSON: before, after, counts',
  PRIMARY KEY (audit_id),
  KEY audit_tenant (tenant_id, audit_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='who did what';
