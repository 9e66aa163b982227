/* locks.gate */
-- Decides requests at the gates of their locks; the function's migration has the rules.
-- $1 the node that asks, $2 the latest instant at which anything may be written; of each request:
-- $3 operation, $4 namespace id, $5 name, $6 account id, $7 token id, $8 lease id, $9 needs proof,
-- $10 lease length, $11 requested length, $12 remaining wait, $13 permits, $14 hold limit,
-- $15 holder, $16 metadata, $17 attachment, $18 fencing token, $19 most tickets of the account.
SELECT request, outcome AS "outcome!", namespace_id AS "namespace_id!", name AS "name!", node_id,
       attachment, account_id, lease_id, fencing_token, permits, slot, lease_ms, max_hold_ms,
       acquired_at, expires_at, expires_in_ms, holder, metadata
  FROM lock_gate($1, $2, $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[],
                 $8::uuid[], $9::boolean[], $10::integer[], $11::integer[], $12::integer[],
                 $13::integer[], $14::integer[], $15::text[], $16::jsonb[], $17::bigint[],
                 $18::bigint[], $19::integer[])
