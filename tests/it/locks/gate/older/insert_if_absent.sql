/* locks.insert_if_absent */
-- Grants each lock that has no row; says nothing about the others.
-- $1 namespace ids, $2 names, $3 account ids, $4 token ids, $5 lease ids, $6 needs proof, $7 lease
-- lengths, $8 holders, $9 metadata, $10 the latest instant at which anything may be written.
-- OFFSET 0 keeps the last condition above the sort: it is tested for each row right before its
-- insert.
INSERT INTO locks AS l (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                        expires_at, lease_id, lease_ms, needs_proof, holder, metadata)
SELECT i.namespace_id, i.name, i.account_id, i.token_id, nextval('lock_fence'), clock_timestamp(),
       clock_timestamp() + i.lease_ms * interval '1 ms', i.lease_id, i.lease_ms, i.needs_proof,
       i.holder, i.metadata
  FROM (
    SELECT i.*
      FROM (SELECT FROM service_clock LIMIT 1) c
      CROSS JOIN (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name,
                         unnest($3::bigint[]) AS account_id, unnest($4::bigint[]) AS token_id,
                         unnest($5::uuid[]) AS lease_id, unnest($6::boolean[]) AS needs_proof,
                         unnest($7::integer[]) AS lease_ms, unnest($8::text[]) AS holder,
                         unnest($9::jsonb[]) AS metadata) i
      LEFT JOIN LATERAL (
        SELECT true AS ended FROM lease_ends e
         WHERE i.needs_proof AND e.account_id = i.account_id AND e.lease_id = i.lease_id
           AND e.namespace_id = i.namespace_id AND e.name = i.name LIMIT 1
      ) e ON true
     WHERE e.ended IS NULL ORDER BY i.namespace_id, i.name COLLATE "C" OFFSET 0
  ) i
 WHERE clock_timestamp() <= $10::timestamptz
ON CONFLICT (namespace_id, name) DO NOTHING
RETURNING l.namespace_id, l.name, l.fencing_token, l.acquired_at, l.expires_at,
          clock_timestamp() AS "written_at!"
