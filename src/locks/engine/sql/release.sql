/* locks.release */
-- Ends each lease that lives and is the account's. The row stays.
-- $1 namespace ids, $2 names, $3 account ids, $4 lease ids (proofs), $5 the latest instant at which
-- anything may be written.
WITH clock AS MATERIALIZED (
  SELECT * FROM lease_clock LIMIT 1
), observed AS (
  SELECT i.namespace_id, i.name, i.account_id, i.lease_id AS proof,
         e.reason AS ended_by, l.account_id AS seen_account_id, l.token_id, l.fencing_token,
         l.lease_id, l.lease_ms, l.needs_proof, l.end_reason, l.gated, l.acquired_at,
         l.expires_at,
         -- Only a proof that is missing is judged by it: the rest is decided under the row lock.
         CASE WHEN i.lease_id IS NULL AND l.needs_proof
              THEN lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
                                 c.recent_until, c.open_start, c.outage_start, c.outage_end,
                                 c.grace_ms) END AS live
    FROM (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name,
                 unnest($3::bigint[]) AS account_id, unnest($4::uuid[]) AS lease_id) i
    CROSS JOIN clock c
    LEFT JOIN LATERAL (
      SELECT * FROM locks l WHERE l.namespace_id = i.namespace_id AND l.name = i.name LIMIT 1
    ) l ON true
    LEFT JOIN LATERAL (
      SELECT e.reason FROM lease_ends e
       WHERE (l.lease_id, l.account_id) IS DISTINCT FROM (i.lease_id, i.account_id)
         AND e.account_id = i.account_id AND e.lease_id = i.lease_id
         AND e.namespace_id = i.namespace_id AND e.name = i.name LIMIT 1
    ) e ON true
), verdicts AS MATERIALIZED (
  SELECT observed.*, lease_verdict(ended_by, lease_id, needs_proof, end_reason, live,
                                   seen_account_id = account_id, proof) AS verdict
    FROM observed
), written_rows AS (
  -- The proposed row is inserted only if the sweeper deleted the row of a lapsed lease meanwhile.
  INSERT INTO locks AS l (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                          expires_at, lease_id, lease_ms, end_reason, needs_proof)
  SELECT namespace_id, name, account_id, token_id, fencing_token, 'epoch', 'epoch', lease_id,
         lease_ms, 3, needs_proof OR proof IS NOT NULL
    FROM verdicts WHERE verdict = 'try' AND NOT gated ORDER BY namespace_id, name COLLATE "C"
  ON CONFLICT (namespace_id, name) DO UPDATE SET
    expires_at = clock_timestamp(),
    -- The row remembers the lease until another takes it over, and an id that was sent with it.
    needs_proof = l.needs_proof OR excluded.needs_proof,
    end_reason = CASE WHEN lease_is_live(l.expires_at, l.end_reason,
                             greatest(l.lease_ms, l.renewed_ms),
                             (SELECT recent_until FROM clock), (SELECT open_start FROM clock),
                             (SELECT outage_start FROM clock), (SELECT outage_end FROM clock),
                             (SELECT grace_ms FROM clock))
                      THEN 1
                      WHEN l.expires_at >= l.acquired_at + l.max_hold_ms * interval '1 ms' THEN 5
                      ELSE 3 END
  WHERE l.fencing_token = excluded.fencing_token AND l.end_reason = 0 AND NOT l.gated
    AND (excluded.needs_proof OR NOT l.needs_proof)
    AND clock_timestamp() <= $5::timestamptz
  RETURNING l.namespace_id, l.name, l.lease_id, l.fencing_token, l.acquired_at, l.expires_at,
            l.end_reason
)
SELECT namespace_id AS "namespace_id!", name AS "name!",
       CASE end_reason WHEN 1 THEN 'done' WHEN 5 THEN 'hold_limit' ELSE 'expired' END
         AS "verdict!", lease_id, fencing_token, acquired_at, expires_at,
       NULL::integer AS lease_ms, NULL::integer AS max_hold_ms, NULL::timestamptz AS written_at,
       NULL::text AS holder, NULL::jsonb AS metadata
  FROM written_rows
UNION ALL
-- Only under the gate is the lock handed over to its first waiter.
SELECT namespace_id, name,
       CASE WHEN gated AND (verdict = 'try' OR verdict = 'unknown' AND proof IS NOT NULL)
            THEN 'gated' ELSE verdict END, lease_id,
       CASE WHEN ended_by IS NULL THEN fencing_token END, acquired_at, expires_at, NULL, NULL, NULL,
       NULL, NULL
  FROM verdicts WHERE verdict <> 'try' OR gated
