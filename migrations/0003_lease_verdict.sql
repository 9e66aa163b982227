-- What heartbeats and releases conclude from a lock's row before they write: one rule for both.
INSERT INTO schema_compatibility VALUES (3, '0.1.0');

-- 'try': the lease lives and is the caller's. Else the reason why there is nothing to renew or end.
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
              WHEN is_account AND (proof = lease_id OR proof IS NULL)
                THEN CASE WHEN proof IS NULL AND needs_proof
                            THEN CASE WHEN live THEN 'unproved' ELSE 'unknown' END
                          WHEN live THEN 'try'
                          WHEN end_reason = 1 THEN 'released'
                          WHEN end_reason = 2 THEN 'broken'
                          ELSE 'expired' END
              ELSE 'unknown' END
$$;
