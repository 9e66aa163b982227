-- What keeps a statement that arrives late, or looks at an old snapshot, from undoing a later answer
-- (ADR 9); and what heartbeats and releases conclude from a lock's row, one rule for both.
INSERT INTO schema_compatibility VALUES (3, '0.1.0');

ALTER TABLE locks ADD COLUMN renewed_ms integer, ADD COLUMN mark_token bigint;
COMMENT ON COLUMN locks.renewed_ms IS 'the length that the lease was last renewed with, milliseconds; null: nobody renewed it since the grant';
COMMENT ON COLUMN locks.mark_token IS 'drawn from lock_fence when a release came before its acquire: an acquire that observed the row before that is retried; means nothing to fencing';
COMMENT ON COLUMN locks.seen_token IS 'of proposed rows only: the lock_version that the granting statement had observed; means nothing in a stored row';
COMMENT ON COLUMN locks.lease_ms IS 'the length that the lease was granted with, milliseconds; what a heartbeat without a length of its own renews by';
COMMENT ON COLUMN locks.end_reason IS '0: live or lapsed, 1: released, 2: broken, 3: lapsed, and its account was told so, 4: no lease, but the mark of a release that came before its acquire';
ALTER TABLE locks DROP CONSTRAINT locks_end_reason_known;
ALTER TABLE locks ADD CONSTRAINT locks_end_reason_known CHECK (end_reason BETWEEN 0 AND 4);
ALTER TABLE locks ADD CONSTRAINT locks_renewed_range CHECK (renewed_ms BETWEEN 1 AND 86400000);

ALTER TABLE lease_ends DROP CONSTRAINT lease_ends_reason_known;
ALTER TABLE lease_ends ADD CONSTRAINT lease_ends_reason_known CHECK (reason BETWEEN 1 AND 4);
COMMENT ON TABLE lease_ends IS 'The memory of ended leases with ids of their clients'' choosing: a lease id serves one lease of a lock.';
COMMENT ON COLUMN lease_ends.reason IS '1: released, 2: broken, 3: lapsed and taken over, 4: released before it was granted';

-- 'try': the row has the caller's lease, and nobody ended it; whether it lives is decided under the
-- row's lock. Else the reason why there is nothing to renew or end.
--   ended_by      lease_ends.reason of the lease id that was sent, where another lease has the row
--   lease_id, needs_proof, end_reason, live   of the row; NULL where there is none
--   is_account    the row's lease is the caller's account's
--   proof         the lease id that was sent
-- Inlined by the planner: one expression, and nothing in it is volatile.
CREATE FUNCTION lease_verdict(ended_by smallint, lease_id uuid, needs_proof boolean,
    end_reason smallint, live boolean, is_account boolean, proof uuid)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN ended_by = 1 THEN 'released'
              WHEN ended_by = 2 THEN 'broken'
              WHEN ended_by = 3 THEN CASE WHEN lease_id IS NULL THEN 'expired' ELSE 'superseded' END
              WHEN ended_by = 4 THEN 'never_granted'
              WHEN is_account AND (proof = lease_id OR proof IS NULL)
                THEN CASE WHEN proof IS NULL AND needs_proof
                            THEN CASE WHEN live THEN 'unproved' ELSE 'unknown' END
                          WHEN end_reason = 0 THEN 'try'
                          WHEN end_reason = 1 THEN 'released'
                          WHEN end_reason = 2 THEN 'broken'
                          WHEN end_reason = 3 THEN 'expired'
                          ELSE 'never_granted' END
              ELSE 'unknown' END
$$;

-- What an acquire concludes from a row: the grant, the marks since, and how the lease ended. While
-- this is what was observed, all of it is. A lapsed lease counts the same before and after its
-- account was told. NULL where there is no row.
CREATE FUNCTION lock_version(fencing_token bigint, mark_token bigint, needs_proof boolean,
    end_reason smallint)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT greatest(fencing_token, mark_token) * 16 + needs_proof::integer * 8
         + CASE end_reason WHEN 0 THEN 3 ELSE end_reason END
$$;

COMMENT ON COLUMN accounts.email_key IS 'the e-mail address as it is compared: ASCII letters in lower case, the domain by IDNA';
