/* locks.release_under_lock */
-- Ends each lease by its id, or leaves a mark that keeps it from being granted: decided under the
-- row's lock alone, so that a grant which is still in its commit is waited for, not missed.
-- $1 namespace ids, $2 names, $3 account ids, $4 lease ids, $5 whether the id is the client's own;
-- otherwise the lease is ended only if nobody renewed it since the grant; $6 the latest instant at
-- which anything may be written.
WITH clock AS MATERIALIZED (
  SELECT * FROM lease_clock LIMIT 1
), input AS MATERIALIZED (
  SELECT i.*, coalesce(l.gated, false) AS gated
    FROM (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name,
                 unnest($3::bigint[]) AS account_id, unnest($4::uuid[]) AS lease_id,
                 unnest($5::boolean[]) AS is_clients) i
    LEFT JOIN LATERAL (
      SELECT l.gated FROM locks l
       WHERE l.namespace_id = i.namespace_id AND l.name = i.name LIMIT 1
    ) l ON true
), remembered AS (
  SELECT i.namespace_id, i.name, i.account_id, i.lease_id, e.reason
    FROM input i
    CROSS JOIN LATERAL (
      SELECT e.reason FROM lease_ends e
       WHERE i.is_clients AND NOT i.gated
         AND e.account_id = i.account_id AND e.lease_id = i.lease_id
         AND e.namespace_id = i.namespace_id AND e.name = i.name LIMIT 1
    ) e
), written_rows AS (
  -- If there is no row, the mark is inserted as one: of a lease that ended before it was granted.
  -- OFFSET 0 keeps the condition above the sort: it is tested for each row right before its insert.
  INSERT INTO locks AS l (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                          expires_at, lease_id, lease_ms, end_reason, needs_proof)
  SELECT namespace_id, name, account_id, 0, nextval('lock_fence'), clock_timestamp(),
         clock_timestamp(), lease_id, 1, 4, is_clients
    FROM (SELECT * FROM input WHERE NOT gated
           ORDER BY namespace_id, name COLLATE "C" OFFSET 0) i
   WHERE clock_timestamp() <= $6::timestamptz
  ON CONFLICT (namespace_id, name) DO UPDATE SET
    -- Kept: a living lease of another id, or one that was renewed and is to be ended only if not.
    -- Otherwise the row counts as touched now, so that the sweeper leaves the mark alone.
    expires_at = CASE WHEN (l.lease_id IS DISTINCT FROM excluded.lease_id
                            OR l.account_id IS DISTINCT FROM excluded.account_id
                            OR NOT excluded.needs_proof AND l.renewed_ms IS NOT NULL)
                           AND lease_is_live(l.expires_at, l.end_reason,
                                 greatest(l.lease_ms, l.renewed_ms),
                                 (SELECT recent_until FROM clock), (SELECT open_start FROM clock),
                                 (SELECT outage_start FROM clock), (SELECT outage_end FROM clock),
                                 (SELECT grace_ms FROM clock))
                      THEN l.expires_at ELSE clock_timestamp() END,
    end_reason = CASE WHEN l.end_reason <> 0 THEN l.end_reason
                      WHEN NOT lease_is_live(l.expires_at, l.end_reason,
                                 greatest(l.lease_ms, l.renewed_ms),
                                 (SELECT recent_until FROM clock), (SELECT open_start FROM clock),
                                 (SELECT outage_start FROM clock), (SELECT outage_end FROM clock),
                                 (SELECT grace_ms FROM clock))
                      THEN CASE WHEN l.expires_at
                                     >= l.acquired_at + l.max_hold_ms * interval '1 ms'
                                THEN 5 ELSE 3 END
                      WHEN l.lease_id IS DISTINCT FROM excluded.lease_id
                           OR l.account_id IS DISTINCT FROM excluded.account_id
                           OR NOT excluded.needs_proof AND l.renewed_ms IS NOT NULL THEN 0
                      ELSE 1 END,
    needs_proof = l.needs_proof OR excluded.needs_proof
                  AND l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id,
    mark_token = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                      THEN l.mark_token ELSE nextval('lock_fence') END
  WHERE clock_timestamp() <= $6::timestamptz AND NOT l.gated
  RETURNING l.namespace_id, l.name, l.account_id, l.lease_id, l.end_reason, l.fencing_token,
            l.acquired_at, l.expires_at
), marks AS (
  -- A lease that the row still has is remembered there, one that it had before already here.
  INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
  SELECT account_id, lease_id, namespace_id, name, clock_timestamp(), 4
    FROM input
   WHERE is_clients
     AND CASE WHEN (namespace_id, name) IN (SELECT namespace_id, name FROM written_rows)
              THEN (namespace_id, name, account_id, lease_id) NOT IN
                   (SELECT namespace_id, name, account_id, lease_id FROM written_rows
                     WHERE end_reason <> 4) END
   ORDER BY 1, 2
  ON CONFLICT DO NOTHING
  RETURNING namespace_id, name
)
SELECT namespace_id AS "namespace_id!", name AS "name!",
       CASE end_reason WHEN 0 THEN 'renewed' WHEN 1 THEN 'released' WHEN 2 THEN 'broken'
                       WHEN 3 THEN 'expired' WHEN 5 THEN 'hold_limit'
                       ELSE 'never_granted' END AS "verdict!",
       account_id AS "account_id?", lease_id AS "lease_id?", fencing_token AS "fencing_token?",
       acquired_at AS "acquired_at?", expires_at AS "expires_at?"
  FROM written_rows
UNION ALL
SELECT namespace_id, name,
       CASE reason WHEN 1 THEN 'released' WHEN 2 THEN 'broken' WHEN 3 THEN 'superseded'
                   WHEN 5 THEN 'hold_limit' WHEN 6 THEN 'expired'
                   ELSE 'never_granted' END, account_id, lease_id, NULL, NULL, NULL
  FROM remembered
UNION ALL
-- Only under the gate is the lock handed over to its first waiter.
SELECT namespace_id, name, 'gated', account_id, lease_id, NULL, NULL, NULL
  FROM input WHERE gated
UNION ALL
SELECT namespace_id, name, 'never_granted', NULL, NULL, NULL, NULL, NULL FROM marks
