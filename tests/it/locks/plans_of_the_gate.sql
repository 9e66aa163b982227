-- Requests to gates that reach every statement of the function, one after the other.
CREATE FUNCTION pg_temp.ask(operation text, name text, lease uuid, wait integer DEFAULT 0,
    permits integer DEFAULT 1, attachment bigint DEFAULT 1, needs_proof boolean DEFAULT true,
    account bigint DEFAULT 1, max_hold integer DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg(outcome, ',')
    FROM lock_gate(7, '2100-01-01', ARRAY[operation], ARRAY[1::bigint],
    ARRAY[name], ARRAY[account], ARRAY[account], ARRAY[lease], ARRAY[needs_proof], ARRAY[60000],
    ARRAY[NULL::integer], ARRAY[wait], ARRAY[permits], ARRAY[max_hold], ARRAY[NULL::text],
    ARRAY[NULL::jsonb], ARRAY[attachment], ARRAY[NULL::bigint], ARRAY[100])
$$;
CREATE FUNCTION pg_temp.id(n bigint) RETURNS uuid LANGUAGE sql AS $$
  SELECT lpad(n::text, 32, '0')::uuid
$$;
BEGIN;
-- A line: refusals, places, a hand-over, the ways out.
SELECT pg_temp.ask('acquire', 'line', pg_temp.id(900001));
SELECT pg_temp.ask('acquire', 'line', pg_temp.id(900002), 60000, 1, 2, account => 2);
SELECT pg_temp.ask('release', 'line', pg_temp.id(1));
SELECT pg_temp.ask('acquire', 'line', pg_temp.id(900009));
UPDATE locks SET expires_at = clock_timestamp() WHERE name = 'line';
SELECT pg_temp.ask('advance', 'line', NULL);
SELECT pg_temp.ask('confirm', 'line', lease_id, 60000, 1, attachment)
  FROM lock_tickets WHERE name = 'line' AND claim_token IS NOT NULL;
SELECT pg_temp.ask('heartbeat', 'line', lease_id) FROM locks WHERE name = 'line';
UPDATE lock_tickets SET is_detached = true WHERE lease_id = pg_temp.id(5001);
SELECT pg_temp.ask('confirm', 'line', pg_temp.id(5001), 60000, 1, 5002);
SELECT pg_temp.ask('leave', 'line', pg_temp.id(5001), 0, 1, 5002);
SELECT pg_temp.ask('abandon', 'line', pg_temp.id(5003), 0, 1, 5004, false);
SELECT pg_temp.ask('release', 'line', pg_temp.id(5005));
SELECT pg_temp.ask('heartbeat', 'line', pg_temp.id(900003));
SELECT pg_temp.ask('release', 'line', pg_temp.id(900004));
SELECT pg_temp.ask('acquire', 'line', pg_temp.id(900004), 60000);
SELECT pg_temp.ask('break', 'line', NULL, account => NULL);
SELECT pg_temp.ask('abandon', 'line', lease_id, 0, 1, attachment)
  FROM lock_tickets WHERE name = 'line' AND claim_token IS NOT NULL;
SELECT pg_temp.ask('abandon', 'line', lease_id, 0, 1, attachment, false)
  FROM lock_tickets WHERE name = 'line' AND claim_token IS NOT NULL;
SELECT pg_temp.ask('break', 'line', NULL, account => NULL);
SELECT pg_temp.ask('release', 'line', lease_id)
  FROM lock_tickets WHERE name = 'line' AND claim_token IS NOT NULL;
UPDATE locks SET end_reason = 1 WHERE name = 'line';
SELECT pg_temp.ask('advance', 'line', NULL);
UPDATE locks SET fencing_token = nextval('lock_fence') WHERE name = 'line';
UPDATE locks SET first_ticket = (SELECT min(ticket) FROM lock_tickets WHERE name = 'line'
                                    AND claim_token IS NOT NULL) WHERE name = 'line';
SELECT pg_temp.ask('advance', 'line', NULL);
SELECT pg_temp.ask('acquire', 'line', pg_temp.id(900010), 60000);
UPDATE api_tokens SET revoked_at = now() WHERE token_id = 4999;
UPDATE lock_tickets SET token_id = 4999 WHERE name = 'line' AND ticket < 1100;
UPDATE locks SET expires_at = clock_timestamp() WHERE name = 'line';
SELECT pg_temp.ask('advance', 'line', NULL);
SELECT pg_temp.ask('expel', 'line', NULL);
-- A free lock, with a hold limit.
SELECT pg_temp.ask('acquire', 'new', pg_temp.id(900020), 60000, max_hold => 50000);
UPDATE locks SET acquired_at = acquired_at - interval '1 min' WHERE name = 'new';
SELECT pg_temp.ask('heartbeat', 'new', pg_temp.id(900020));
SELECT pg_temp.ask('acquire', 'new', pg_temp.id(900021), 60000);
-- Permits: a full semaphore with a line.
SELECT pg_temp.ask('acquire', 'permits', pg_temp.id(800000 + n), 60000, 10, n)
  FROM generate_series(1, 13) n;
SELECT pg_temp.ask('acquire', 'permits', pg_temp.id(900030));
SELECT pg_temp.ask('acquire', 'permits', pg_temp.id(800001), 60000, 10);
SELECT pg_temp.ask('heartbeat', 'permits', pg_temp.id(800002));
SELECT pg_temp.ask('release', 'permits', pg_temp.id(800003));
SELECT pg_temp.ask('confirm', 'permits', pg_temp.id(800011), 60000, 10, 11);
UPDATE lock_members SET expires_at = clock_timestamp() WHERE lease_id = pg_temp.id(800004);
SELECT pg_temp.ask('advance', 'permits', NULL);
UPDATE lock_members SET expires_at = clock_timestamp() WHERE lease_id = pg_temp.id(800012);
SELECT pg_temp.ask('advance', 'permits', NULL);
UPDATE lock_tickets SET is_detached = false, waits_until = now() + interval '1 h',
       node_id = 9 WHERE name = 'permits';
SELECT pg_temp.ask('release', 'permits', pg_temp.id(800005));
SELECT pg_temp.ask('abandon', 'permits', pg_temp.id(800013), 0, 10, 13);
SELECT pg_temp.ask('abandon', 'permits', pg_temp.id(800006), 0, 10, 6, false);
UPDATE lock_members SET max_hold_ms = 1, acquired_at = now() - interval '1 min'
 WHERE lease_id = pg_temp.id(800007);
SELECT pg_temp.ask('heartbeat', 'permits', pg_temp.id(800007));
SELECT pg_temp.ask('break', 'permits', pg_temp.id(800008));
SELECT pg_temp.ask('expel', 'permits', NULL);
ROLLBACK;
