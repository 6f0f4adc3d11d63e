-- The witness: triggers that look at every write of the nodes inside its own transaction, so that
-- nothing happens between two looks, and what a crash takes back is not held against anybody. A write
-- that must not be leaves a row in chaos_violation. Statements end with a line of //.
CREATE TABLE chaos_violation (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  rule VARCHAR(32) NOT NULL,
  text VARCHAR(500) NOT NULL
)
//
-- Node sessions as they were: when they renewed last, by the server's clock, and when they ended.
CREATE TABLE chaos_session (
  session_id BINARY(16) NOT NULL PRIMARY KEY,
  name VARBINARY(128) NOT NULL,
  renewed_at DATETIME(3) NOT NULL,
  ended_at DATETIME(3) NULL,
  silent_ms BIGINT NULL,
  replaced TINYINT NOT NULL DEFAULT 0
)
//
CREATE TRIGGER chaos_session_new AFTER INSERT ON node_session FOR EACH ROW
  INSERT INTO chaos_session(session_id, name, renewed_at) VALUES (NEW.session_id, NEW.name, UTC_TIMESTAMP(3))
//
CREATE TRIGGER chaos_session_change AFTER UPDATE ON node_session FOR EACH ROW
BEGIN
  IF OLD.state<>1 AND (NEW.state=1 OR NEW.renewals<>OLD.renewals) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('session',
      CONCAT('session ', HEX(NEW.session_id), ' lived again after its end'));
  ELSEIF NEW.renewals<>OLD.renewals THEN
    UPDATE chaos_session SET renewed_at=UTC_TIMESTAMP(3) WHERE session_id=NEW.session_id;
  ELSEIF OLD.state=1 AND NEW.state<>1 THEN
    UPDATE chaos_session SET ended_at=UTC_TIMESTAMP(3), replaced=NEW.state=2,
      silent_ms=TIMESTAMPDIFF(MICROSECOND, renewed_at, UTC_TIMESTAMP(3)) DIV 1000
      WHERE session_id=NEW.session_id;
  END IF;
END
//
-- A batch is appended by a live session, as the flush its writer's row says.
CREATE TRIGGER chaos_journal AFTER INSERT ON journal FOR EACH ROW
BEGIN
  IF NOT EXISTS (SELECT 1 FROM node_session n JOIN writer w ON w.session_id=n.session_id
      WHERE n.session_id=NEW.session_id AND n.state=1 AND w.writer_no=NEW.writer_no
      AND w.flush_no=NEW.flush_no AND w.state=1) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('fence',
      CONCAT('session ', HEX(NEW.session_id), ', which has ended, appended ', NEW.partition_id, '/',
             NEW.base_seq, ' as flush ', NEW.flush_no, ' of writer ', NEW.writer_no));
  END IF;
  IF NEW.writer_no=3 AND NOT @chaos_role<=>(SELECT writes FROM role WHERE role=1) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('role',
      CONCAT('session ', HEX(NEW.session_id), ' moved timers without the fence of the role'));
  END IF;
  IF NEW.writer_no=4 AND NOT @chaos_inbox<=>(SELECT writes FROM role WHERE role=3) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('role',
      CONCAT('session ', HEX(NEW.session_id), ' moved the inbox without the fence of the role'));
  END IF;
END
//
-- An epoch never goes back, an owner changes with a new one, and nobody but its own client (kind 1)
-- takes a subscription from a live node.
CREATE TRIGGER chaos_subscription AFTER UPDATE ON subscription FOR EACH ROW
BEGIN
  IF NEW.epoch<OLD.epoch
      OR (NEW.owner IS NOT NULL AND NOT NEW.owner<=>OLD.owner AND NEW.epoch<>OLD.epoch+1) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('epoch',
      CONCAT('subscription ', NEW.subscription_id, ': owner ', COALESCE(HEX(OLD.owner), 'none'), ' epoch ',
             OLD.epoch, ' became ', COALESCE(HEX(NEW.owner), 'none'), ' epoch ', NEW.epoch));
  END IF;
  IF NEW.kind<>1 AND OLD.owner<>NEW.owner
      AND EXISTS (SELECT 1 FROM node_session WHERE session_id=OLD.owner AND state=1) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('lease',
      CONCAT('subscription ', NEW.subscription_id, ' epoch ', NEW.epoch, ': ', HEX(NEW.owner),
             ' took it from ', HEX(OLD.owner), ', which lives'));
  END IF;
END
//
-- A cursor moves forward only, once for each commit number, and by who owns it in that epoch.
CREATE TRIGGER chaos_cursors AFTER UPDATE ON cursors FOR EACH ROW
BEGIN
  IF NEW.acked_through<OLD.acked_through THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('cursors',
      CONCAT('subscription ', NEW.subscription_id, ', partition ', NEW.partition_id, ': from ',
             OLD.acked_through, ' back to ', NEW.acked_through));
  END IF;
  IF NEW.commit_no=OLD.commit_no THEN
    IF NEW.acked_through<>OLD.acked_through OR NEW.epoch<OLD.epoch THEN
      INSERT INTO chaos_violation(rule, text) VALUES ('epoch',
        CONCAT('subscription ', NEW.subscription_id, ', partition ', NEW.partition_id, ': epoch ',
               OLD.epoch, ' became ', NEW.epoch, ' without a commit'));
    END IF;
  ELSEIF NEW.commit_no<>OLD.commit_no+1 OR NEW.epoch<>OLD.epoch OR NOT NEW.owner<=>OLD.owner
      OR NOT EXISTS (SELECT 1 FROM subscription s WHERE s.subscription_id=NEW.subscription_id
        AND s.epoch=NEW.epoch AND (s.owner IS NULL OR s.owner=NEW.owner)) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('stale',
      CONCAT('subscription ', NEW.subscription_id, ', partition ', NEW.partition_id, ': commit ',
             NEW.commit_no, ' after ', OLD.commit_no, ' by ', COALESCE(HEX(NEW.owner), 'none'), ' in epoch ',
             NEW.epoch, ', which is not the subscription''s'));
  END IF;
END
//
-- A role is taken only from who is gone, with a new epoch; every write in it counts one up, and who moves
-- timers or the inbox lives. (In the others, whose transactions have no other fence, the last step of one that was
-- replaced may come as long as nobody has claimed the role.) @chaos_role says that this connection's transaction has passed the fence of the timers' role,
-- which is asked for when a leader (writer 3) appends; @chaos_inbox of that of the inbox (writer 4). (A trigger on writer would hide LAST_INSERT_ID.)
CREATE TRIGGER chaos_role AFTER UPDATE ON role FOR EACH ROW
BEGIN
  IF NEW.epoch<OLD.epoch OR NEW.writes<OLD.writes OR NEW.writes>OLD.writes+1
      OR (NEW.owner IS NOT NULL AND NOT NEW.owner<=>OLD.owner AND NEW.epoch<>OLD.epoch+1) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('role',
      CONCAT('role ', NEW.role, ': owner ', COALESCE(HEX(OLD.owner), 'none'), ' epoch ', OLD.epoch,
             ' writes ', OLD.writes, ' became ', COALESCE(HEX(NEW.owner), 'none'), ' epoch ', NEW.epoch,
             ' writes ', NEW.writes));
  END IF;
  IF OLD.owner<>NEW.owner
      AND EXISTS (SELECT 1 FROM node_session WHERE session_id=OLD.owner AND state=1) THEN
    INSERT INTO chaos_violation(rule, text) VALUES ('role',
      CONCAT('role ', NEW.role, ' epoch ', NEW.epoch, ': ', HEX(NEW.owner), ' took it from ',
             HEX(OLD.owner), ', which lives'));
  END IF;
  IF NEW.writes<>OLD.writes THEN
    SET @chaos_role = IF(NEW.role=1, NEW.writes, @chaos_role), @chaos_inbox = IF(NEW.role=3, NEW.writes, @chaos_inbox);
    IF NEW.role IN (1, 3) AND NOT EXISTS (SELECT 1 FROM node_session WHERE session_id=NEW.owner AND state=1) THEN
      INSERT INTO chaos_violation(rule, text) VALUES ('role',
        CONCAT('role ', NEW.role, ' epoch ', NEW.epoch, ': a write by ', HEX(NEW.owner), ', which has ended'));
    END IF;
  END IF;
END
//
-- What the leader moves, when it was due and when it was moved: never early, unless its publisher took
-- it back by its name.
CREATE TABLE chaos_fired (
  timer_id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
  kind TINYINT UNSIGNED NOT NULL,
  late_ms BIGINT NOT NULL
)
//
CREATE TRIGGER chaos_timer AFTER DELETE ON timer FOR EACH ROW
BEGIN
  IF OLD.subscription_id=0 AND OLD.name IS NULL AND OLD.due_at IS NOT NULL THEN
    INSERT INTO chaos_fired VALUES (OLD.timer_id, OLD.kind,
      TIMESTAMPDIFF(MICROSECOND, OLD.due_at, UTC_TIMESTAMP(3)) DIV 1000);
    IF OLD.due_at>UTC_TIMESTAMP(3) THEN
      INSERT INTO chaos_violation(rule, text) VALUES ('early',
        CONCAT('timer ', OLD.timer_id, ', due at ', OLD.due_at, ', was moved at ', UTC_TIMESTAMP(3)));
    END IF;
  END IF;
END
