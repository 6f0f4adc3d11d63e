-- A tenant on its way from one database to another (leat tenant export, import). While it has a row
-- here no leader touches what is its: timers do not fire, nothing expires, retention leaves it alone; and
-- no procedure changes what is carried (_unmoved). So what was copied stays what it was. tenant_resume removes the row.

CREATE TABLE IF NOT EXISTS tenant_move (
  tenant_id      INT UNSIGNED      NOT NULL,
  direction      TINYINT UNSIGNED  NOT NULL COMMENT '1 export, 2 import',
  state          TINYINT UNSIGNED  NOT NULL DEFAULT 1 COMMENT '1 under way, 2 complete (an import: and verified)',
  source         BINARY(32)        NOT NULL COMMENT 'import: SHA-256 of the file''s first chunk; export: zeros',
  chunks         INT UNSIGNED      NOT NULL DEFAULT 0 COMMENT 'import: so many chunks of the file are stored',
  since          DATETIME(3)       NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
  PRIMARY KEY (tenant_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='tenants that are being moved, and left alone';
