/* locks.heartbeat_member */
-- Renews each shared lease or permit that lives and is the account's. Says 'gated' of one that is
-- not found or has lapsed: the gate decides about that.
-- $1 namespace ids, $2 names, $3 account ids, $4 lease ids, $5 requested lengths, $6 the latest
-- instant at which anything may be written.
WITH clock AS MATERIALIZED (
  SELECT *, clock_timestamp() AS started_at FROM lease_clock LIMIT 1
), observed AS MATERIALIZED (
  SELECT i.*, m.slot, m.permits, m.token_id, m.fencing_token, m.lease_ms,
         lease_is_live(m.expires_at, m.end_reason, greatest(m.lease_ms, m.renewed_ms),
                       c.recent_until, c.open_start, c.outage_start, c.outage_end, c.grace_ms)
         AND (clock_timestamp() >= m.acquired_at + m.max_hold_ms * interval '1 ms') IS NOT TRUE
         AND (m.claim_token = m.fencing_token) IS NOT TRUE -- a claim is nobody's lease yet
           AS may_be_renewed
    FROM (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name,
                 unnest($3::bigint[]) AS account_id, unnest($4::uuid[]) AS lease_id,
                 unnest($5::integer[]) AS requested_ms) i
    CROSS JOIN clock c
    LEFT JOIN LATERAL (
      SELECT * FROM lock_members m
       WHERE m.lease_id = i.lease_id AND m.account_id = i.account_id
         AND m.namespace_id = i.namespace_id AND m.name = i.name AND m.end_reason = 0 LIMIT 1
    ) m ON true
), written_rows AS (
  -- The proposed row is inserted only if the sweeper deleted the row meanwhile: of an ended lease.
  INSERT INTO lock_members AS m (namespace_id, name, slot, permits, account_id, token_id,
                                 fencing_token, acquired_at, expires_at, lease_id, lease_ms,
                                 end_reason, needs_proof)
  SELECT namespace_id, name, slot, permits, account_id, token_id, fencing_token, 'epoch', 'epoch',
         lease_id, coalesce(requested_ms, lease_ms), 6, true
    FROM observed WHERE may_be_renewed ORDER BY namespace_id, name COLLATE "C", slot
  ON CONFLICT (namespace_id, name, slot) DO UPDATE SET
    expires_at = least(clock_timestamp() + excluded.lease_ms * interval '1 ms',
                       m.acquired_at + m.max_hold_ms * interval '1 ms'),
    renewed_ms = excluded.lease_ms
  WHERE m.fencing_token = excluded.fencing_token AND m.end_reason = 0
    AND lease_is_live(m.expires_at, m.end_reason, greatest(m.lease_ms, m.renewed_ms),
                      (SELECT recent_until FROM clock), (SELECT open_start FROM clock),
                      (SELECT outage_start FROM clock), (SELECT outage_end FROM clock),
                      (SELECT grace_ms FROM clock))
    AND (clock_timestamp() >= m.acquired_at + m.max_hold_ms * interval '1 ms') IS NOT TRUE
    AND clock_timestamp() <= $6::timestamptz
  RETURNING m.namespace_id, m.name, m.lease_id, m.fencing_token, m.slot, m.permits, m.acquired_at,
            m.expires_at, m.lease_ms, m.max_hold_ms, m.end_reason, m.holder, m.metadata
)
SELECT namespace_id AS "namespace_id!", name AS "name!", lease_id AS "lease_id!",
       'renewed' AS "verdict!", fencing_token, slot, permits, acquired_at, expires_at, lease_ms,
       max_hold_ms, (SELECT started_at FROM clock) AS written_at, holder, metadata
  FROM written_rows WHERE end_reason = 0
UNION ALL
SELECT namespace_id, name, lease_id, 'gated', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL
  FROM observed WHERE may_be_renewed IS NOT TRUE
