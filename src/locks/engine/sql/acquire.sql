/* locks.acquire */
-- Grants each lock that is free, and renews each lease whose own id is sent again.
-- $1 namespace ids, $2 names, $3 account ids, $4 token ids, $5 lease ids, $6 needs proof, $7 lease
-- lengths, $8 lengths that the requests themselves name, $9 holders, $10 metadata, $11 the latest
-- instant at which anything may be written, $12 hold limits.
WITH clock AS MATERIALIZED (
  SELECT * FROM lease_clock LIMIT 1
), observed AS (
  SELECT i.*,
         lock_version(l.fencing_token, l.mark_token, l.needs_proof, l.end_reason) AS seen_token,
         l.lease_ms AS seen_lease_ms,
         l.account_id AS seen_account_id, l.lease_id AS seen_lease_id,
         l.fencing_token AS seen_fencing_token, l.acquired_at AS seen_acquired_at,
         l.expires_at AS seen_expires_at,
         l.needs_proof AS seen_needs_proof, l.end_reason AS seen_end_reason, e.ended,
         l.gated, l.claim_token = l.fencing_token AS seen_is_claim,
         l.expires_at >= l.acquired_at + l.max_hold_ms * interval '1 ms' AS seen_held_out,
         l.lease_id = i.lease_id AND l.account_id = i.account_id AS is_own,
         lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
                       c.recent_until, c.open_start, c.outage_start, c.outage_end,
                       c.grace_ms) AS live
    FROM (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name,
                 unnest($3::bigint[]) AS account_id, unnest($4::bigint[]) AS token_id,
                 unnest($5::uuid[]) AS lease_id, unnest($6::boolean[]) AS needs_proof,
                 unnest($7::integer[]) AS lease_ms, unnest($8::integer[]) AS requested_ms,
                 unnest($9::text[]) AS holder, unnest($10::jsonb[]) AS metadata,
                 unnest($12::integer[]) AS max_hold_ms) i
    CROSS JOIN clock c
    LEFT JOIN LATERAL (
      SELECT * FROM locks l WHERE l.namespace_id = i.namespace_id AND l.name = i.name LIMIT 1
    ) l ON true
    LEFT JOIN LATERAL (
      SELECT true AS ended FROM lease_ends e
       WHERE i.needs_proof AND e.account_id = i.account_id AND e.lease_id = i.lease_id
         AND e.namespace_id = i.namespace_id AND e.name = i.name LIMIT 1
    ) e ON true
), verdicts AS MATERIALIZED (
  SELECT observed.*,
         CASE WHEN is_own AND seen_is_claim THEN 'gated'
              WHEN is_own AND seen_end_reason = 0 THEN 'try'
              WHEN ended THEN 'ended'
              WHEN seen_token IS NULL THEN 'try'
              WHEN is_own THEN 'ended'
              WHEN gated AND (NOT live OR seen_account_id = 0) THEN 'gated'
              WHEN live THEN 'held'
              ELSE 'try' END AS verdict
    FROM observed
), written_rows AS (
  INSERT INTO locks AS l (namespace_id, name, account_id, token_id, fencing_token, seen_token,
                          acquired_at, expires_at, lease_id, lease_ms, needs_proof, holder,
                          metadata, max_hold_ms)
  -- OFFSET 0 keeps the condition above the sort: it is tested for each row right before its insert.
  SELECT namespace_id, name, account_id, token_id, nextval('lock_fence'), seen_token,
         clock_timestamp(), clock_timestamp() + least(length_ms, max_hold_ms) * interval '1 ms',
         lease_id, length_ms, needs_proof, holder, metadata, max_hold_ms
    FROM (SELECT *, CASE WHEN is_own THEN coalesce(requested_ms, seen_lease_ms)
                         ELSE lease_ms END AS length_ms
            FROM verdicts WHERE verdict = 'try' ORDER BY namespace_id, name COLLATE "C" OFFSET 0) v
   WHERE clock_timestamp() <= $11::timestamptz
  ON CONFLICT (namespace_id, name) DO UPDATE SET
    -- The caller's own lease, where it turns out to have lapsed, is not renewed but ends for good.
    expires_at = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                           AND NOT lease_is_live(l.expires_at, l.end_reason,
                                 greatest(l.lease_ms, l.renewed_ms),
                                 (SELECT recent_until FROM clock), (SELECT open_start FROM clock),
                                 (SELECT outage_start FROM clock), (SELECT outage_end FROM clock),
                                 (SELECT grace_ms FROM clock))
                      THEN l.expires_at
                      -- A repetition never shortens: a heartbeat may have lengthened it since.
                      WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                      THEN greatest(l.expires_at,
                                    least(clock_timestamp() + excluded.lease_ms * interval '1 ms',
                                          l.acquired_at + l.max_hold_ms * interval '1 ms'))
                      ELSE clock_timestamp() + least(excluded.lease_ms, excluded.max_hold_ms)
                                               * interval '1 ms' END,
    end_reason = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                           AND NOT lease_is_live(l.expires_at, l.end_reason,
                                 greatest(l.lease_ms, l.renewed_ms),
                                 (SELECT recent_until FROM clock), (SELECT open_start FROM clock),
                                 (SELECT outage_start FROM clock), (SELECT outage_end FROM clock),
                                 (SELECT grace_ms FROM clock))
                      THEN CASE WHEN l.expires_at
                                     >= l.acquired_at + l.max_hold_ms * interval '1 ms'
                                THEN 5 ELSE 3 END
                      WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                           AND clock_timestamp()
                               >= l.acquired_at + l.max_hold_ms * interval '1 ms'
                      THEN 5 ELSE 0 END,
    account_id = excluded.account_id, token_id = excluded.token_id, lease_id = excluded.lease_id,
    needs_proof = excluded.needs_proof,
    -- A repetition leaves both as they were granted.
    holder = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                  THEN l.holder ELSE excluded.holder END,
    metadata = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                    THEN l.metadata ELSE excluded.metadata END,
    fencing_token = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                         THEN l.fencing_token ELSE nextval('lock_fence') END,
    acquired_at = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                       THEN l.acquired_at ELSE clock_timestamp() END,
    lease_ms = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                    THEN l.lease_ms ELSE excluded.lease_ms END,
    max_hold_ms = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                       THEN l.max_hold_ms ELSE excluded.max_hold_ms END,
    -- A client's repetition is a renewal; the engine's own, after a lost answer, is not.
    renewed_ms = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                      THEN CASE WHEN excluded.needs_proof
                                THEN greatest(excluded.lease_ms, l.renewed_ms)
                                ELSE l.renewed_ms END END
  WHERE lock_version(l.fencing_token, l.mark_token, l.needs_proof, l.end_reason)
        = excluded.seen_token
    AND clock_timestamp() <= $11::timestamptz
    AND CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
             THEN l.end_reason = 0
             ELSE NOT l.gated
                  AND NOT lease_is_live(l.expires_at, l.end_reason,
                        greatest(l.lease_ms, l.renewed_ms),
                        (SELECT recent_until FROM clock), (SELECT open_start FROM clock),
                        (SELECT outage_start FROM clock), (SELECT outage_end FROM clock),
                        (SELECT grace_ms FROM clock)) END
  RETURNING l.namespace_id, l.name, l.lease_id, l.fencing_token, l.acquired_at, l.expires_at,
            l.lease_ms, l.max_hold_ms, l.end_reason, clock_timestamp() AS written_at, l.holder,
            l.metadata
), ended_leases AS (
  -- The row forgets the lease before: its id is remembered here.
  INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
  SELECT seen_account_id, seen_lease_id, namespace_id, name, clock_timestamp(),
         CASE WHEN seen_end_reason <> 0 THEN seen_end_reason
              WHEN seen_held_out THEN 5 ELSE 3 END
    FROM verdicts
   WHERE verdict = 'try' AND seen_needs_proof AND NOT is_own
     AND CASE WHEN (namespace_id, name) IN (SELECT namespace_id, name FROM written_rows)
              THEN true END
   ORDER BY 1, 2
  ON CONFLICT DO NOTHING
)
SELECT namespace_id AS "namespace_id!", name AS "name!",
       CASE WHEN end_reason = 0 THEN 'granted' ELSE 'ended' END AS "verdict!", lease_id,
       fencing_token, acquired_at, expires_at, lease_ms, max_hold_ms, written_at, holder,
       metadata
  FROM written_rows
UNION ALL
SELECT namespace_id, name, verdict, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
  FROM verdicts WHERE verdict <> 'try'
UNION ALL
-- No verdict: a lapsed lease, of a lock that may be taken over. 'held_out': at its hold limit.
SELECT namespace_id, name, CASE WHEN seen_held_out THEN 'held_out' ELSE 'lapsed' END,
       seen_lease_id, seen_fencing_token, seen_acquired_at, seen_expires_at, NULL, NULL, NULL,
       NULL, NULL
  FROM verdicts WHERE verdict = 'try' AND seen_end_reason IN (0, 3, 5) AND NOT is_own
