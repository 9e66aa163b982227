-- The gate: waiting in line, permits and shared leases (ADR 11, ADR 12).
-- A lock whose row is not gated is decided by its row alone. A gated row is the lock under which its
-- tickets and members are decided, by lock_gate(); only heartbeats do not go through it.
INSERT INTO schema_compatibility VALUES (4, '0.1.0');

ALTER TABLE locks
  ADD COLUMN gated boolean NOT NULL DEFAULT false,
  ADD COLUMN max_hold_ms integer,
  ADD COLUMN claim_token bigint,
  ADD COLUMN first_ticket bigint;
COMMENT ON COLUMN locks.account_id IS 'the account that holds, or last held, the lock; 0: nobody; the row stands for its members, or for a lock that was never taken';
COMMENT ON COLUMN locks.gated IS 'true: the lock has tickets or members; changed under the row''s lock only';
COMMENT ON COLUMN locks.max_hold_ms IS 'the lease is never renewed beyond acquired_at plus this, milliseconds';
COMMENT ON COLUMN locks.claim_token IS 'equals fencing_token while the lease is a claim: granted to a ticket and not yet confirmed by its node';
COMMENT ON COLUMN locks.first_ticket IS 'no ticket is smaller: a scan of the line starts here, not at the dead index entries of past tickets';
COMMENT ON COLUMN locks.end_reason IS '0: live or lapsed, 1: released, 2: broken, 3: lapsed, and its account was told so, 4: no lease, but the mark of a release that came before its acquire, 5: as 3, at its hold limit';
ALTER TABLE locks DROP CONSTRAINT locks_end_reason_known;
ALTER TABLE locks ADD CONSTRAINT locks_end_reason_known CHECK (end_reason BETWEEN 0 AND 5) NOT VALID;
ALTER TABLE locks ADD CONSTRAINT locks_max_hold_range CHECK (max_hold_ms BETWEEN 1 AND 2147483647) NOT VALID;

ALTER TABLE lease_ends DROP CONSTRAINT lease_ends_reason_known;
ALTER TABLE lease_ends ADD CONSTRAINT lease_ends_reason_known CHECK (reason BETWEEN 1 AND 6) NOT VALID;
COMMENT ON COLUMN lease_ends.reason IS '1: released, 2: broken, 3: lapsed and taken over, 4: released before it was granted, 5: lapsed at its hold limit, 6: lapsed, of a shared lease or permit';

CREATE SEQUENCE lock_ticket AS bigint CACHE 1;
COMMENT ON SEQUENCE lock_ticket IS 'tickets of all locks; drawn under the lock''s row lock, so that they follow the order of arrival';

CREATE TABLE nodes (
  node_id bigint NOT NULL,
  looked_at timestamptz NOT NULL,
  CONSTRAINT nodes_pk PRIMARY KEY (node_id)
) WITH (fillfactor = 10);
COMMENT ON TABLE nodes IS 'The nodes that look at their waiters, twice a second; node_is_live says which of them are alive.';
COMMENT ON COLUMN nodes.node_id IS 'drawn by the node at each start';
COMMENT ON COLUMN nodes.looked_at IS 'the node''s last look; -infinity after it left a claim to lapse, until its next look';

-- `permits`, here and in lock_members: 1: exclusive, 0: shared, 2 to 1,000: a semaphore of so many.
CREATE TABLE lock_tickets (
  namespace_id bigint NOT NULL,
  ticket bigint NOT NULL,
  joined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  account_id bigint NOT NULL,
  token_id bigint NOT NULL,
  node_id bigint NOT NULL,
  attachment bigint NOT NULL,
  waits_until timestamptz NOT NULL,
  claim_token bigint,
  lease_id uuid NOT NULL,
  lease_ms integer NOT NULL,
  permits integer NOT NULL,
  max_hold_ms integer,
  needs_proof boolean NOT NULL,
  is_detached boolean NOT NULL DEFAULT false,
  name text COLLATE "C" NOT NULL,
  holder text,
  metadata jsonb,
  CONSTRAINT lock_tickets_pk PRIMARY KEY (namespace_id, name, ticket),
  -- The lease id comes first, so that this index never serves a scan of a line.
  CONSTRAINT lock_tickets_lease_unique UNIQUE (lease_id, account_id, namespace_id, name),
  CONSTRAINT lock_tickets_permits_range CHECK (permits BETWEEN 0 AND 1000)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE lock_tickets IS 'The places of the requests that wait for a lock, in the order of their tickets.';
COMMENT ON COLUMN lock_tickets.joined_at IS 'when the ticket was drawn';
COMMENT ON COLUMN lock_tickets.node_id IS 'the node whose request waits';
COMMENT ON COLUMN lock_tickets.attachment IS 'which request of that node: only the newest one with this lease id speaks for its place';
COMMENT ON COLUMN lock_tickets.waits_until IS 'not granted after this instant; kept for 20 s more, in case the client asks again with its lease id';
COMMENT ON COLUMN lock_tickets.is_detached IS 'nobody waits with it now: passed over until a request with its lease id attaches it again';
COMMENT ON COLUMN lock_tickets.claim_token IS 'the fencing token of the claim that was granted to it; null: it waits';
CREATE INDEX lock_tickets_node_index ON lock_tickets (node_id);
CREATE INDEX lock_tickets_account_index ON lock_tickets (account_id);

-- A slot's row is to a permit what a lock's row is to an exclusive lease: it stays when the lease has
-- ended, and the next grant takes it over. The key makes two live leases of one slot impossible.
CREATE TABLE lock_members (
  namespace_id bigint NOT NULL,
  account_id bigint NOT NULL,
  token_id bigint NOT NULL,
  fencing_token bigint NOT NULL,
  acquired_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  claim_token bigint,
  lease_id uuid NOT NULL,
  lease_ms integer NOT NULL,
  renewed_ms integer,
  slot integer NOT NULL,
  permits integer NOT NULL,
  max_hold_ms integer,
  end_reason smallint NOT NULL DEFAULT 0,
  needs_proof boolean NOT NULL,
  name text COLLATE "C" NOT NULL,
  holder text,
  metadata jsonb,
  CONSTRAINT lock_members_pk PRIMARY KEY (namespace_id, name, slot),
  CONSTRAINT lock_members_permits_range CHECK (permits BETWEEN 0 AND 1000 AND permits <> 1),
  CONSTRAINT lock_members_slot_range CHECK (slot >= 0 AND (permits = 0 OR slot < permits)),
  CONSTRAINT lock_members_lease_range CHECK (lease_ms BETWEEN 1 AND 86400000),
  CONSTRAINT lock_members_renewed_range CHECK (renewed_ms BETWEEN 1 AND 86400000),
  CONSTRAINT lock_members_max_hold_range CHECK (max_hold_ms BETWEEN 1 AND 2147483647),
  CONSTRAINT lock_members_end_reason_known CHECK (end_reason BETWEEN 0 AND 6),
  CONSTRAINT lock_members_holder_length CHECK (octet_length(holder) <= 256),
  CONSTRAINT lock_members_metadata_size CHECK (octet_length(metadata::text) <= 8192)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE lock_members IS 'The shared leases and permits of gated locks; columns as in locks.';
COMMENT ON COLUMN lock_members.end_reason IS '0: live, or lapsed and not yet found; else as lease_ends.reason';
CREATE INDEX lock_members_lease_index ON lock_members (lease_id, account_id);
CREATE INDEX lock_members_account_index ON lock_members (account_id);

-- A lease that ended at its hold limit counts the same before and after its account was told.
CREATE OR REPLACE FUNCTION lock_version(fencing_token bigint, mark_token bigint,
    needs_proof boolean, end_reason smallint)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT greatest(fencing_token, mark_token) * 16 + needs_proof::integer * 8
         + CASE end_reason WHEN 0 THEN 3 WHEN 5 THEN 3 ELSE end_reason END
$$;

CREATE OR REPLACE FUNCTION lease_verdict(ended_by smallint, lease_id uuid, needs_proof boolean,
    end_reason smallint, live boolean, is_account boolean, proof uuid)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN ended_by = 1 THEN 'released'
              WHEN ended_by = 2 THEN 'broken'
              WHEN ended_by = 3 THEN CASE WHEN lease_id IS NULL THEN 'expired' ELSE 'superseded' END
              WHEN ended_by = 4 THEN 'never_granted'
              WHEN ended_by = 5 THEN 'hold_limit'
              WHEN ended_by = 6 THEN 'expired'
              WHEN is_account AND (proof = lease_id OR proof IS NULL)
                THEN CASE WHEN proof IS NULL AND needs_proof
                            THEN CASE WHEN live THEN 'unproved' ELSE 'unknown' END
                          WHEN end_reason = 0 THEN 'try'
                          WHEN end_reason = 1 THEN 'released'
                          WHEN end_reason = 2 THEN 'broken'
                          WHEN end_reason = 3 THEN 'expired'
                          WHEN end_reason = 5 THEN 'hold_limit'
                          ELSE 'never_granted' END
              ELSE 'unknown' END
$$;

-- When a lease that nobody renews can be taken over: at its end, or after the grace that an outage
-- gives it. May be too early, never too late by more than half a second.
CREATE FUNCTION lease_lapses_at(expires_at timestamptz, lease_ms integer, recent_until timestamptz,
    outage_start timestamptz, outage_end timestamptz, grace_ms integer)
RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
  SELECT greatest(expires_at,
    CASE WHEN clock_timestamp() > recent_until THEN clock_timestamp() + interval '500 ms'
         WHEN expires_at > outage_start
           THEN outage_end + least(lease_ms, grace_ms) * interval '1 ms' END)
$$;

-- A node that has not looked for 2.5 s is dead. In an outage, and for 10 s after it, the node's last
-- look before the outage counts.
CREATE FUNCTION node_is_live(looked_at timestamptz, recent_until timestamptz,
    open_start timestamptz, outage_start timestamptz, outage_end timestamptz)
RETURNS boolean LANGUAGE sql VOLATILE AS $$
  SELECT looked_at > clock_timestamp() - interval '2.5 s'
      OR looked_at > interval '-2.5 s' + CASE WHEN clock_timestamp() > recent_until THEN open_start
           WHEN clock_timestamp() < outage_end + interval '10 s' THEN outage_start END
$$;

-- True if a lease of `permits` may begin beside `live` leases of `in_force`.
CREATE FUNCTION permit_fits(permits integer, in_force integer, live integer)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT live = 0
      OR permits <> 1 AND permits = in_force AND (permits = 0 OR live < permits)
$$;

-- True if a lock that is in use with one of them cannot be waited for with the other: semaphores go
-- with their like only.
CREATE FUNCTION permits_conflict(permits integer, in_force integer)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT permits <> in_force AND greatest(permits, in_force) > 1
$$;

-- True if the token may still be granted a lease: looked at again before each grant to a ticket.
-- In PL/pgSQL: a function in SQL would be planned in each transaction.
CREATE FUNCTION token_is_admitted(token bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  PERFORM -- Lateral, one by one: joined freely, it would read tables whole.
     FROM api_tokens t
      CROSS JOIN LATERAL (SELECT * FROM accounts a WHERE a.account_id = t.account_id LIMIT 1) a
      CROSS JOIN LATERAL (SELECT * FROM plans p WHERE p.plan_id = a.plan_id LIMIT 1) p
      CROSS JOIN LATERAL (
        SELECT * FROM namespaces n WHERE n.namespace_id = t.namespace_id LIMIT 1
      ) n
     WHERE t.token_id = token AND t.revoked_at IS NULL
       AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())
       AND a.suspended_at IS NULL AND a.deleting_since IS NULL
       AND (n.account_id IS NULL OR p.max_private_namespaces >= (
             SELECT count(*) FROM namespaces o
              WHERE o.account_id = n.account_id AND o.namespace_id <= n.namespace_id));
  RETURN FOUND;
END $$;

-- Every live or lapsed lease that nobody ended, exclusive or not: one row each, for statements that
-- count and list. lease_is_live decides which of them live.
CREATE VIEW unended_leases AS
  SELECT namespace_id, name, account_id, token_id, fencing_token, acquired_at, expires_at, lease_id,
         greatest(lease_ms, renewed_ms) AS length_ms, lease_ms, max_hold_ms, 1 AS permits,
         NULL::integer AS slot, end_reason, needs_proof, holder, metadata,
         coalesce(claim_token = fencing_token, false) AS is_claim
    FROM locks WHERE end_reason = 0 AND account_id <> 0
  UNION ALL
  SELECT namespace_id, name, account_id, token_id, fencing_token, acquired_at, expires_at, lease_id,
         greatest(lease_ms, renewed_ms), lease_ms, max_hold_ms, permits,
         CASE WHEN permits > 0 THEN slot END, end_reason, needs_proof, holder, metadata,
         coalesce(claim_token = fencing_token, false)
    FROM lock_members WHERE end_reason = 0;

-- A row of the gate's result: the outcome of a request where `request` is its place in the arrays;
-- otherwise news of a lock: 'claimed' (granted to the ticket of a request that waits, on node_id),
-- 'lapsed' (a lease that was found to have ended by itself), 'superseded' (the row of one was taken
-- over), 'claim_lapsed', and 'next_end' (a lock with a line: ask again in expires_in_ms). Of a lease
-- that was released or broken, the row of the outcome says which one it was.
CREATE TYPE gate_result AS (
  request integer,
  outcome text,
  namespace_id bigint,
  name text,
  node_id bigint,
  attachment bigint,
  account_id bigint,
  ticket bigint,
  lease_id uuid,
  fencing_token bigint,
  permits integer,
  slot integer,
  lease_ms integer,
  max_hold_ms integer,
  acquired_at timestamptz,
  expires_at timestamptz,
  expires_in_ms bigint,
  holder text,
  metadata jsonb
);

-- The row of a lock that nobody holds: its last lease is not remembered in it.
CREATE FUNCTION gate_blank(INOUT l locks, at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
  l.account_id := 0; l.token_id := 0; l.lease_id := '00000000-0000-0000-0000-000000000000';
  l.lease_ms := 1; l.needs_proof := false; l.renewed_ms := NULL; l.max_hold_ms := NULL;
  l.claim_token := NULL; l.holder := NULL; l.metadata := NULL; l.end_reason := 1;
  l.expires_at := at;
END $$;

-- Begins a lease of the lock `l`, whose row lock the caller has, as the ticket `w` describes it; the
-- caller has made sure that it fits. Returns the row as it shall be stored. A claim lasts for 3 s:
-- longer than any stall that is not an outage.
CREATE FUNCTION gate_grant(INOUT l locks, w lock_tickets, slots integer[], at timestamptz,
    is_claim boolean, OUT new_slot integer, OUT new_token bigint, OUT new_end timestamptz,
    OUT new_length integer) LANGUAGE plpgsql AS $$
BEGIN
  new_token := nextval('lock_fence');
  new_length := CASE WHEN is_claim THEN least(w.lease_ms, 3000) ELSE w.lease_ms END;
  new_end := at + least(new_length, w.max_hold_ms) * interval '1 ms';
  IF l.account_id <> 0 AND l.needs_proof THEN -- The row forgets the lease before.
    INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
    VALUES (l.account_id, l.lease_id, l.namespace_id, l.name, at,
            CASE WHEN l.end_reason <> 0 THEN l.end_reason
                 WHEN l.expires_at >= l.acquired_at + l.max_hold_ms * interval '1 ms' THEN 5
                 ELSE 3 END)
    ON CONFLICT DO NOTHING;
  END IF;
  l.fencing_token := new_token;
  l.acquired_at := at;
  l.renewed_ms := NULL;
  IF w.permits = 1 THEN
    l.account_id := w.account_id; l.token_id := w.token_id; l.lease_id := w.lease_id;
    l.lease_ms := new_length; l.needs_proof := w.needs_proof; l.max_hold_ms := w.max_hold_ms;
    l.holder := w.holder; l.metadata := w.metadata; l.end_reason := 0; l.expires_at := new_end;
    l.claim_token := CASE WHEN is_claim THEN new_token END;
    RETURN;
  END IF;
  -- To statements that know no gates, a row with members is held, by nobody, for ever.
  l := gate_blank(l, at);
  l.gated := true; l.end_reason := 0; l.expires_at := '9999-12-31';
  SELECT coalesce(min(u.i) FILTER (WHERE u.slot <> u.i - 1), cardinality(slots) + 1) - 1
    INTO new_slot FROM unnest(slots) WITH ORDINALITY u (slot, i);
  INSERT INTO lock_members AS m (namespace_id, name, slot, permits, account_id, token_id,
      fencing_token, acquired_at, expires_at, claim_token, lease_id, lease_ms, renewed_ms,
      max_hold_ms, end_reason, needs_proof, holder, metadata)
  VALUES (l.namespace_id, l.name, new_slot, w.permits, w.account_id, w.token_id, new_token, at,
      new_end, CASE WHEN is_claim THEN new_token END, w.lease_id, new_length, NULL, w.max_hold_ms,
      0, w.needs_proof, w.holder, w.metadata)
  ON CONFLICT ON CONSTRAINT lock_members_pk DO UPDATE SET permits = excluded.permits,
      account_id = excluded.account_id, token_id = excluded.token_id,
      fencing_token = excluded.fencing_token, acquired_at = excluded.acquired_at,
      expires_at = excluded.expires_at, claim_token = excluded.claim_token,
      lease_id = excluded.lease_id, lease_ms = excluded.lease_ms,
      renewed_ms = excluded.renewed_ms, max_hold_ms = excluded.max_hold_ms,
      end_reason = excluded.end_reason, needs_proof = excluded.needs_proof,
      holder = excluded.holder, metadata = excluded.metadata
   WHERE m.end_reason <> 0;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'slot % of the lock % is taken', new_slot, l.name;
  END IF;
END $$;

-- How many requests of an account wait for a lock, or did lately: at most `most`.
CREATE FUNCTION gate_tickets_of(account bigint, ns bigint, lock_name text, most integer)
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT count(*) FROM (
    SELECT FROM lock_tickets q
     WHERE q.account_id = account AND q.namespace_id = ns AND q.name = lock_name
       AND q.waits_until > clock_timestamp() - interval '20 s'
     LIMIT most) x);
END $$;

-- Takes a claim back: as if it had not been granted. Its ticket is detached; a node that let it
-- lapse counts as dead until it looks again. Returns the ticket's number.
CREATE FUNCTION gate_withdraw(ns bigint, lock_name text, account bigint, lease uuid,
    at timestamptz, is_lapsed boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  w lock_tickets;
BEGIN
  UPDATE lock_tickets q
     SET claim_token = NULL, is_detached = true, waits_until = least(q.waits_until, at)
   WHERE q.lease_id = lease AND q.account_id = account AND q.namespace_id = ns
     AND q.name = lock_name
  RETURNING q.* INTO w;
  IF is_lapsed THEN
    UPDATE nodes n SET looked_at = '-infinity'
     WHERE n.node_id IN (SELECT d.node_id FROM nodes d WHERE d.node_id = w.node_id
                            FOR NO KEY UPDATE SKIP LOCKED);
  END IF;
  RETURN w.ticket;
END $$;

-- A lease that ended, as a row of the gate's result.
CREATE FUNCTION gate_ended(l locks, what text) RETURNS gate_result LANGUAGE sql IMMUTABLE AS $$
  SELECT ROW(NULL, what, l.namespace_id, l.name, NULL, NULL, l.account_id, NULL, l.lease_id,
             l.fencing_token, 1, NULL, l.lease_ms, l.max_hold_ms, l.acquired_at, l.expires_at,
             NULL, NULL, NULL)::gate_result
$$;

-- Decides a batch of requests about gated locks: in key order, then in the order of the arrays;
-- several requests of one lock under one row lock. $1 `me`: the id of the node that asks.
--   acquire     grants, renews, joins the line where wait_ms > 0, or refuses
--   confirm     asks for a waiter: makes its claim a whole lease, or says whether it still waits
--   leave       as confirm, but the time is up: a ticket is detached (or deleted, where the client
--               did not choose the lease id)
--   abandon     the client has gone: as leave, and a claim, or a grant without a lease id of the
--               client's that nobody renewed, is taken back
--   unattended  no request waits with the ticket: as abandon, but a whole lease is left alone
--   heartbeat   renews a shared lease or permit that the fast statement found lapsed
--   release     ends a lease, or marks its id
--   compensate  ends a lease that nobody received, unless somebody renewed it
--   break       ends leases by force: those of account, lease id and fencing token, each if given
--   expel       ends all leases and tickets of an account
--   advance     only hands over what is free
-- Nothing is written after latest_at. `waits` and lengths are milliseconds. `q.node_id + 0` keeps the
-- scan of a line on its own index: by the node's it would read all tickets of all live nodes. So do
-- the comparisons of whole keys, which no other index serves, whatever the statistics say.
CREATE FUNCTION lock_gate(me bigint, latest_at timestamptz, operations text[],
    namespace_ids bigint[], names text[], account_ids bigint[], token_ids bigint[],
    lease_ids uuid[], needs_proofs boolean[], lease_lengths integer[],
    requested_lengths integer[], waits integer[], permit_numbers integer[], max_holds integer[],
    holders text[], metadatas jsonb[], attachments bigint[], fencing_tokens bigint[],
    max_tickets integer[])
RETURNS SETOF gate_result LANGUAGE plpgsql AS $$
DECLARE
  r record;              -- the request
  l locks;               -- the lock's row, kept in memory until its last request is decided
  m lock_members;        -- the request's own shared lease or permit, if it lives
  w lock_tickets;
  g record;
  c lease_clock;
  a gate_result;
  t timestamptz;         -- read after leases were found to have ended: no grant begins before that
  is_locked boolean;
  is_late boolean;
  is_changed boolean;
  row_lives boolean;     -- true if the row's own, exclusive lease lives
  is_own boolean;        -- true if the row's lease, live or not, is the request's
  is_unconfirmed boolean; -- true if the request's own lease was granted as a claim
  is_claim boolean;      -- true if it still is one: nobody renewed it either
  fits boolean;
  slots integer[];       -- the slots of live members, in order
  in_force integer;      -- their permits
  live_nodes bigint[];
  admitted bigint[];     -- the tokens that were found to be admitted
  token bigint;          -- the one that has to be, for this request
  known_at timestamptz := '-infinity'; -- when live_nodes and admitted were read
  is_node_noted boolean := false; -- true if the row of the node says that it lives
  changed locks[] := '{}'; -- the rows to store: in one statement, the last of all
  first_live bigint;
  from_ticket bigint;    -- no ticket before it is live, or waits
  refused integer;       -- the tickets whose tokens were refused at this visit
  last_ticket CONSTANT bigint := 9223372036854775807;
  head bigint;
  length_ms integer;
  why smallint;
BEGIN
  FOR r IN
    SELECT i.*, lag(i.n) OVER key IS NULL AS is_first, lead(i.n) OVER key IS NULL AS is_last,
           bool_or(i.operation IN ('acquire', 'release')) OVER lock AS may_insert,
           bool_or(i.operation IN ('break', 'expel')) OVER lock AS ends_any,
           array_agg(i.lease_id) OVER lock AS all_lease_ids
      FROM unnest(operations, namespace_ids, names, account_ids, token_ids, lease_ids,
                  needs_proofs, lease_lengths, requested_lengths, waits, permit_numbers,
                  max_holds, holders, metadatas, attachments, fencing_tokens, max_tickets)
           WITH ORDINALITY
           i (operation, namespace_id, name, account_id, token_id, lease_id, needs_proof, lease_ms,
              requested_ms, wait_ms, permits, max_hold_ms, holder, metadata, attachment,
              fencing_token, max_tickets, n)
    WINDOW lock AS (PARTITION BY i.namespace_id, i.name COLLATE "C"),
           key AS (PARTITION BY i.namespace_id, i.name COLLATE "C" ORDER BY i.n)
     ORDER BY i.namespace_id, i.name COLLATE "C", i.n
  LOOP
    a := NULL;
    a.request := r.n; a.namespace_id := r.namespace_id; a.name := r.name;
    a.account_id := r.account_id; a.attachment := r.attachment; a.lease_id := r.lease_id;
    IF r.is_first THEN
      is_locked := false;
    END IF;

    -- Look before locking: a refusal, and a timer that is early, write and lock nothing.
    IF NOT is_locked AND (r.operation = 'advance' OR r.operation = 'acquire' AND r.wait_ms = 0) THEN
      SELECT * INTO l FROM locks x WHERE x.namespace_id = r.namespace_id AND x.name = r.name;
      SELECT * INTO c FROM lease_clock;
      row_lives := coalesce(l.account_id <> 0 AND lease_is_live(l.expires_at, l.end_reason,
        greatest(l.lease_ms, l.renewed_ms), c.recent_until, c.open_start, c.outage_start,
        c.outage_end, c.grace_ms), false);
      IF r.operation = 'advance' AND (row_lives OR l.gated IS NOT TRUE) THEN
        a.outcome := 'advanced';
        RETURN NEXT a;
        IF l.gated THEN
          a.request := NULL; a.outcome := 'next_end';
          a.expires_in_ms := ceil(extract(epoch FROM lease_lapses_at(l.expires_at,
            greatest(l.lease_ms, l.renewed_ms), c.recent_until, c.outage_start, c.outage_end,
            c.grace_ms) - clock_timestamp()) * 1000);
          RETURN NEXT a;
        END IF;
        CONTINUE;
      ELSIF r.operation = 'acquire' AND l.namespace_id IS NOT NULL THEN
        in_force := NULL;
        IF row_lives THEN
          IF l.account_id <> r.account_id OR l.lease_id <> r.lease_id THEN
            in_force := 1;
          END IF;
        ELSIF l.gated AND l.account_id = 0 AND r.permits = 1
              AND NOT EXISTS (SELECT FROM lock_members x
                               WHERE x.namespace_id = r.namespace_id AND x.name = r.name
                                 AND x.end_reason = 0 AND x.lease_id = r.lease_id
                                 AND x.account_id = r.account_id) THEN
          SELECT x.permits INTO in_force FROM lock_members x
           WHERE x.namespace_id = r.namespace_id AND x.name = r.name AND x.end_reason = 0
             AND lease_is_live(x.expires_at, x.end_reason, greatest(x.lease_ms, x.renewed_ms),
                   c.recent_until, c.open_start, c.outage_start, c.outage_end, c.grace_ms)
           LIMIT 1;
        END IF;
        IF in_force IS NOT NULL THEN
          PERFORM FROM lease_ends e
            WHERE r.needs_proof AND e.account_id = r.account_id AND e.lease_id = r.lease_id
              AND e.namespace_id = r.namespace_id AND e.name = r.name;
          a.outcome := CASE WHEN FOUND THEN 'ended'
                            WHEN permits_conflict(r.permits, in_force) THEN 'limit_conflict'
                            ELSE 'held' END;
          a.permits := in_force;
          RETURN NEXT a;
          CONTINUE;
        END IF;
      END IF;
    END IF;

    IF NOT is_locked THEN
      LOOP
        SELECT * INTO l FROM locks x WHERE x.namespace_id = r.namespace_id AND x.name = r.name
           FOR NO KEY UPDATE;
        EXIT WHEN FOUND OR NOT r.may_insert OR clock_timestamp() > latest_at;
        INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                           expires_at, lease_id, lease_ms, end_reason, needs_proof)
        VALUES (r.namespace_id, r.name, 0, 0, 0, clock_timestamp(), clock_timestamp(),
                '00000000-0000-0000-0000-000000000000', 1, 1, false)
        ON CONFLICT (namespace_id, name) DO NOTHING;
      END LOOP;
      is_locked := true;
      is_late := clock_timestamp() > latest_at;
      is_changed := false; slots := '{}'; in_force := NULL;
      IF clock_timestamp() > known_at + interval '50 ms' THEN -- after a wait, at the latest
        live_nodes := NULL; admitted := '{}'; known_at := clock_timestamp();
      END IF;
      IF NOT is_late THEN
        SELECT * INTO c FROM lease_clock; -- after the wait for the row
        row_lives := coalesce(l.account_id <> 0 AND lease_is_live(l.expires_at, l.end_reason,
          greatest(l.lease_ms, l.renewed_ms), c.recent_until, c.open_start, c.outage_start,
          c.outage_end, c.grace_ms), false);
        IF NOT row_lives AND l.claim_token = l.fencing_token THEN
          IF l.end_reason IN (1, 2) OR l.renewed_ms IS NOT NULL THEN
            -- Ended or renewed by a statement that knows no claims: somebody knows of the lease.
            DELETE FROM lock_tickets q WHERE q.lease_id = l.lease_id
               AND q.account_id = l.account_id AND q.namespace_id = l.namespace_id
               AND q.name = l.name;
            l.claim_token := NULL;
          ELSE -- It lapsed unconfirmed: the lease id has not been used.
            PERFORM gate_withdraw(l.namespace_id, l.name, l.account_id, l.lease_id,
                                  clock_timestamp(), true);
            live_nodes := NULL;
            l := gate_blank(l, clock_timestamp());
            a.request := NULL; a.outcome := 'claim_lapsed';
            RETURN NEXT a;
            a.request := r.n;
          END IF;
          is_changed := true;
        ELSIF NOT row_lives AND l.end_reason = 0 AND l.account_id <> 0 AND r.operation = 'advance'
        THEN
          RETURN NEXT gate_ended(l, 'lapsed');
        END IF;
        IF l.gated AND l.account_id = 0 THEN
          -- All members that may change, in the order in which their heartbeats lock them. Whether
          -- one has lapsed is decided once its row is locked: its heartbeat may be in its commit.
          PERFORM FROM lock_members x
            WHERE x.namespace_id = l.namespace_id AND x.name = l.name AND x.end_reason = 0
              AND (r.ends_any OR x.lease_id = ANY (r.all_lease_ids)
                   OR NOT lease_is_live(x.expires_at, x.end_reason,
                        greatest(x.lease_ms, x.renewed_ms), c.recent_until, c.open_start,
                        c.outage_start, c.outage_end, c.grace_ms))
            ORDER BY x.slot FOR NO KEY UPDATE;
          FOR m IN
            UPDATE lock_members x
               SET end_reason = CASE WHEN x.expires_at >=
                     x.acquired_at + x.max_hold_ms * interval '1 ms' THEN 5 ELSE 6 END
             WHERE x.namespace_id = l.namespace_id AND x.name = l.name AND x.end_reason = 0
               AND NOT lease_is_live(x.expires_at, x.end_reason,
                     greatest(x.lease_ms, x.renewed_ms), c.recent_until, c.open_start,
                     c.outage_start, c.outage_end, c.grace_ms)
            RETURNING x.*
          LOOP
            a.request := NULL;
            IF m.claim_token = m.fencing_token AND m.renewed_ms IS NULL THEN
              PERFORM gate_withdraw(m.namespace_id, m.name, m.account_id, m.lease_id,
                                    clock_timestamp(), true);
              live_nodes := NULL;
              a.outcome := 'claim_lapsed';
            ELSE
              INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
              VALUES (m.account_id, m.lease_id, m.namespace_id, m.name, clock_timestamp(),
                      m.end_reason)
              ON CONFLICT DO NOTHING;
              a.outcome := 'lapsed'; a.lease_id := m.lease_id;
              a.fencing_token := m.fencing_token; a.acquired_at := m.acquired_at;
              a.expires_at := m.expires_at; a.max_hold_ms := m.max_hold_ms;
            END IF;
            RETURN NEXT a;
            a.request := r.n; a.lease_id := r.lease_id; a.fencing_token := NULL;
            a.acquired_at := NULL; a.expires_at := NULL; a.max_hold_ms := NULL;
          END LOOP;
          SELECT coalesce(array_agg(x.slot ORDER BY x.slot), '{}'), max(x.permits)
            INTO slots, in_force FROM lock_members x
           WHERE x.namespace_id = l.namespace_id AND x.name = l.name AND x.end_reason = 0;
          IF cardinality(slots) > 0 AND l.end_reason <> 0 THEN
            -- Broken by a statement that knows no members: they hold it all the same.
            l.end_reason := 0; l.expires_at := '9999-12-31'; l.mark_token := nextval('lock_fence');
            is_changed := true;
          END IF;
        END IF;
        t := clock_timestamp();
      END IF;
    END IF;
    IF is_late THEN
      a.outcome := 'late';
      RETURN NEXT a;
      CONTINUE;
    END IF;

    -- The request's own lease, if it lives: the row's, or the member m.
    is_own := coalesce(l.account_id = r.account_id
      AND (l.lease_id = r.lease_id OR r.lease_id IS NULL AND NOT l.needs_proof), false);
    is_unconfirmed := coalesce(l.claim_token = l.fencing_token, false);
    is_claim := is_unconfirmed AND l.renewed_ms IS NULL;
    m := NULL;
    IF cardinality(slots) > 0 AND r.lease_id IS NOT NULL
       AND r.operation NOT IN ('break', 'expel', 'advance') THEN
      SELECT * INTO m FROM lock_members x
       WHERE x.namespace_id = l.namespace_id AND x.name = l.name AND x.end_reason = 0
         AND x.lease_id = r.lease_id AND x.account_id = r.account_id;
    END IF;

    token := CASE WHEN is_own AND row_lives AND is_unconfirmed THEN l.token_id
                  WHEN m.claim_token = m.fencing_token THEN m.token_id
                  WHEN r.wait_ms > 0 THEN r.token_id END;
    IF token IS NOT NULL AND token <> ALL (admitted) AND token_is_admitted(token) THEN
      admitted := admitted || token;
    END IF;

    IF r.operation = 'advance' THEN
      a.outcome := 'advanced';

    ELSIF r.operation = 'break' THEN
      a.outcome := 'not_held';
      IF l.account_id <> 0
         AND (row_lives OR l.end_reason = 2 AND coalesce(r.fencing_token::text,
                                                         r.lease_id::text) IS NOT NULL)
         AND coalesce(l.account_id = r.account_id, true)
         AND coalesce(l.lease_id = r.lease_id, true)
         AND coalesce(l.fencing_token = r.fencing_token, true) THEN
        a.outcome := 'broken_before';
        IF row_lives THEN
          a.outcome := 'broken_now';
          l.end_reason := 2; l.expires_at := t; row_lives := false; is_changed := true;
          IF is_unconfirmed THEN
            DELETE FROM lock_tickets q WHERE q.lease_id = l.lease_id
               AND q.account_id = l.account_id AND q.namespace_id = l.namespace_id
               AND q.name = l.name;
            l.claim_token := NULL;
          END IF;
        END IF;
        a.account_id := l.account_id; a.lease_id := l.lease_id;
        a.fencing_token := l.fencing_token; a.acquired_at := l.acquired_at;
        a.expires_at := l.expires_at;
      END IF;
      FOR m IN
        UPDATE lock_members x SET end_reason = 2, expires_at = least(x.expires_at, t)
         WHERE cardinality(slots) > 0 AND x.namespace_id = l.namespace_id AND x.name = l.name
           AND x.end_reason = 0 AND coalesce(x.account_id = r.account_id, true)
           AND coalesce(x.lease_id = r.lease_id, true)
           AND coalesce(x.fencing_token = r.fencing_token, true)
        RETURNING x.*
      LOOP
        IF a.outcome = 'broken_now' THEN
          RETURN NEXT a;
        END IF;
        IF m.claim_token = m.fencing_token THEN
          DELETE FROM lock_tickets q WHERE q.lease_id = m.lease_id
             AND q.account_id = m.account_id AND q.namespace_id = m.namespace_id
             AND q.name = m.name;
        END IF;
        INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
        VALUES (m.account_id, m.lease_id, m.namespace_id, m.name, t, 2)
        ON CONFLICT DO NOTHING;
        slots := array_remove(slots, m.slot);
        is_changed := true;
        a.outcome := 'broken_now'; a.account_id := m.account_id; a.lease_id := m.lease_id;
        a.fencing_token := m.fencing_token; a.acquired_at := m.acquired_at;
        a.expires_at := m.expires_at;
      END LOOP;

    ELSIF r.operation = 'expel' THEN
      IF l.account_id = r.account_id AND l.end_reason = 0 THEN
        l.end_reason := 1; l.expires_at := t; l.claim_token := NULL;
        row_lives := false; is_changed := true;
      END IF;
      FOR m IN
        UPDATE lock_members x SET end_reason = 1, expires_at = least(x.expires_at, t)
         WHERE x.namespace_id = l.namespace_id AND x.name = l.name AND x.end_reason = 0
           AND x.account_id = r.account_id
        RETURNING x.*
      LOOP
        slots := array_remove(slots, m.slot);
        is_changed := true;
      END LOOP;
      DELETE FROM lock_tickets q WHERE q.account_id = r.account_id
         AND q.namespace_id = r.namespace_id AND q.name = r.name;
      a.outcome := 'expelled';

    ELSIF is_own AND row_lives AND r.operation IN ('acquire', 'confirm', 'leave', 'heartbeat')
    THEN
      head := NULL; -- the ticket of the claim, if it is the request's
      IF is_unconfirmed THEN
        SELECT q.ticket INTO head FROM lock_tickets q
         WHERE q.lease_id = l.lease_id AND q.account_id = l.account_id
           AND q.namespace_id = l.namespace_id AND q.name = l.name
           AND (r.operation = 'acquire' OR q.node_id + 0 = me AND q.attachment = r.attachment);
      END IF;
      IF is_unconfirmed AND head IS NULL THEN
        -- A claim is nobody's lease yet; a later request may have its place.
        a.outcome := CASE WHEN r.operation = 'heartbeat' THEN 'unknown' ELSE 'replaced' END;
      ELSIF is_unconfirmed AND token <> ALL (admitted) THEN
        DELETE FROM lock_tickets q WHERE q.lease_id = l.lease_id
           AND q.account_id = l.account_id AND q.namespace_id = l.namespace_id
           AND q.name = l.name;
        l := gate_blank(l, t);
        row_lives := false; is_changed := true;
        a.outcome := 'refused';
      ELSIF r.operation = 'acquire' AND r.permits <> 1 THEN
        a.outcome := 'limit_conflict'; a.permits := 1;
      ELSIF t >= l.acquired_at + l.max_hold_ms * interval '1 ms' THEN
        l.end_reason := 5; row_lives := false; is_changed := true; -- P11: no renewal beyond it
        DELETE FROM lock_tickets q WHERE is_unconfirmed AND q.lease_id = l.lease_id
           AND q.account_id = l.account_id AND q.namespace_id = l.namespace_id
           AND q.name = l.name;
        l.claim_token := NULL;
        a.outcome := 'hold_limit';
      ELSE
        length_ms := CASE WHEN is_unconfirmed THEN r.lease_ms
                          ELSE coalesce(r.requested_ms, l.lease_ms) END;
        l.expires_at := greatest(l.expires_at, least(t + length_ms * interval '1 ms',
                          l.acquired_at + l.max_hold_ms * interval '1 ms'));
        IF is_unconfirmed THEN
          l.lease_ms := r.lease_ms; l.claim_token := NULL;
          DELETE FROM lock_tickets q
           WHERE q.namespace_id = l.namespace_id AND q.name = l.name AND q.ticket = head;
          IF l.first_ticket = head THEN
            l.first_ticket := head + 1;
          END IF;
        ELSIF r.needs_proof OR r.operation = 'heartbeat' THEN
          l.renewed_ms := greatest(length_ms, l.renewed_ms);
        END IF;
        is_changed := true;
        a.outcome := 'granted'; a.lease_id := l.lease_id; a.fencing_token := l.fencing_token;
        a.permits := 1; a.lease_ms := l.lease_ms; a.max_hold_ms := l.max_hold_ms;
        a.holder := l.holder; a.metadata := l.metadata;
        a.acquired_at := l.acquired_at; a.expires_at := l.expires_at;
        a.expires_in_ms := floor(extract(epoch FROM l.expires_at - t) * 1000);
      END IF;

    ELSIF m.slot IS NOT NULL AND r.operation IN ('acquire', 'confirm', 'leave', 'heartbeat') THEN
      is_unconfirmed := coalesce(m.claim_token = m.fencing_token, false);
      head := NULL;
      IF is_unconfirmed THEN
        SELECT q.ticket INTO head FROM lock_tickets q
         WHERE q.lease_id = m.lease_id AND q.account_id = m.account_id
           AND q.namespace_id = m.namespace_id AND q.name = m.name
           AND (r.operation = 'acquire' OR q.node_id + 0 = me AND q.attachment = r.attachment);
      END IF;
      IF is_unconfirmed AND head IS NULL THEN
        a.outcome := CASE WHEN r.operation = 'heartbeat' THEN 'unknown' ELSE 'replaced' END;
      ELSIF is_unconfirmed AND token <> ALL (admitted) THEN
        UPDATE lock_members x SET end_reason = 1, expires_at = t
         WHERE x.namespace_id = m.namespace_id AND x.name = m.name AND x.slot = m.slot;
        DELETE FROM lock_tickets q WHERE q.lease_id = m.lease_id
           AND q.account_id = m.account_id AND q.namespace_id = m.namespace_id
           AND q.name = m.name;
        slots := array_remove(slots, m.slot);
        is_changed := true;
        a.outcome := 'refused';
      ELSIF r.operation = 'acquire' AND r.permits <> m.permits THEN
        a.outcome := 'limit_conflict'; a.permits := m.permits;
      ELSIF t >= m.acquired_at + m.max_hold_ms * interval '1 ms' THEN
        UPDATE lock_members x SET end_reason = 5
         WHERE x.namespace_id = m.namespace_id AND x.name = m.name AND x.slot = m.slot;
        DELETE FROM lock_tickets q WHERE is_unconfirmed AND q.lease_id = m.lease_id
           AND q.account_id = m.account_id AND q.namespace_id = m.namespace_id
           AND q.name = m.name;
        INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
        VALUES (m.account_id, m.lease_id, m.namespace_id, m.name, t, 5)
        ON CONFLICT DO NOTHING;
        slots := array_remove(slots, m.slot);
        is_changed := true;
        a.outcome := 'hold_limit';
      ELSE
        length_ms := CASE WHEN is_unconfirmed THEN r.lease_ms
                          ELSE coalesce(r.requested_ms, m.lease_ms) END;
        UPDATE lock_members x
           SET expires_at = greatest(x.expires_at, least(t + length_ms * interval '1 ms',
                              x.acquired_at + x.max_hold_ms * interval '1 ms')),
               lease_ms = CASE WHEN is_unconfirmed THEN length_ms ELSE x.lease_ms END,
               renewed_ms = CASE WHEN is_unconfirmed THEN x.renewed_ms
                                 WHEN r.operation = 'heartbeat' OR r.needs_proof
                                 THEN greatest(length_ms, x.renewed_ms) ELSE x.renewed_ms END,
               claim_token = NULL
         WHERE x.namespace_id = m.namespace_id AND x.name = m.name AND x.slot = m.slot
        RETURNING x.* INTO m;
        IF is_unconfirmed THEN
          DELETE FROM lock_tickets q
           WHERE q.namespace_id = m.namespace_id AND q.name = m.name AND q.ticket = head;
          IF l.first_ticket = head THEN
            l.first_ticket := head + 1; is_changed := true;
          END IF;
        END IF;
        a.outcome := 'granted'; a.fencing_token := m.fencing_token; a.permits := m.permits;
        a.slot := m.slot; a.lease_ms := m.lease_ms; a.max_hold_ms := m.max_hold_ms;
        a.holder := m.holder; a.metadata := m.metadata;
        a.acquired_at := m.acquired_at; a.expires_at := m.expires_at;
        a.expires_in_ms := floor(extract(epoch FROM m.expires_at - t) * 1000);
      END IF;

    ELSIF is_own AND row_lives AND r.operation IN ('abandon', 'unattended') THEN
      a.outcome := 'left';
      PERFORM FROM lock_tickets q
        WHERE is_claim AND q.lease_id = l.lease_id AND q.account_id = l.account_id
          AND q.namespace_id = l.namespace_id AND q.name = l.name
          AND q.node_id + 0 = me AND q.attachment = r.attachment;
      IF is_claim AND NOT FOUND THEN
        a.outcome := 'replaced'; -- a later request with this lease id has the place
      ELSIF is_claim AND r.needs_proof THEN
        PERFORM gate_withdraw(l.namespace_id, l.name, l.account_id, l.lease_id, t, false);
        l := gate_blank(l, t);
        row_lives := false; is_changed := true;
      ELSIF is_claim OR r.operation = 'abandon' AND NOT r.needs_proof AND l.renewed_ms IS NULL
      THEN
        DELETE FROM lock_tickets q WHERE is_claim AND q.lease_id = l.lease_id
           AND q.account_id = l.account_id AND q.namespace_id = l.namespace_id
           AND q.name = l.name;
        l.end_reason := 1; l.expires_at := t; l.claim_token := NULL;
        row_lives := false; is_changed := true;
      END IF;

    ELSIF m.slot IS NOT NULL AND r.operation IN ('abandon', 'unattended') THEN
      a.outcome := 'left';
      is_claim := coalesce(m.claim_token = m.fencing_token, false) AND m.renewed_ms IS NULL;
      PERFORM FROM lock_tickets q
        WHERE is_claim AND q.lease_id = m.lease_id AND q.account_id = m.account_id
          AND q.namespace_id = m.namespace_id AND q.name = m.name
          AND q.node_id + 0 = me AND q.attachment = r.attachment;
      IF is_claim AND NOT FOUND THEN
        a.outcome := 'replaced';
      ELSIF is_claim OR r.operation = 'abandon' AND NOT r.needs_proof AND m.renewed_ms IS NULL
      THEN
        UPDATE lock_members x SET end_reason = 1, expires_at = t
         WHERE x.namespace_id = m.namespace_id AND x.name = m.name AND x.slot = m.slot;
        slots := array_remove(slots, m.slot);
        is_changed := true;
        IF r.needs_proof THEN
          PERFORM gate_withdraw(m.namespace_id, m.name, m.account_id, m.lease_id, t, false);
        ELSE
          DELETE FROM lock_tickets q WHERE q.lease_id = m.lease_id
             AND q.account_id = m.account_id AND q.namespace_id = m.namespace_id
             AND q.name = m.name;
        END IF;
      END IF;

    ELSIF r.operation IN ('release', 'compensate') AND is_own AND row_lives
          AND NOT (is_claim AND r.lease_id IS NULL)
          AND NOT (r.operation = 'compensate' AND (is_unconfirmed OR l.renewed_ms IS NOT NULL))
    THEN
      IF is_unconfirmed THEN
        DELETE FROM lock_tickets q WHERE q.lease_id = l.lease_id
           AND q.account_id = l.account_id AND q.namespace_id = l.namespace_id
           AND q.name = l.name;
      END IF;
      l.needs_proof := l.needs_proof OR r.operation = 'release' AND r.lease_id IS NOT NULL;
      l.end_reason := 1; l.expires_at := t; l.claim_token := NULL;
      row_lives := false; is_changed := true;
      a.outcome := 'done';
      IF NOT is_unconfirmed THEN
        a.lease_id := l.lease_id; a.fencing_token := l.fencing_token;
        a.acquired_at := l.acquired_at; a.expires_at := t;
      END IF;

    ELSIF r.operation IN ('release', 'compensate') AND m.slot IS NOT NULL
          AND NOT (r.operation = 'compensate'
                   AND (m.claim_token = m.fencing_token OR m.renewed_ms IS NOT NULL) IS TRUE)
    THEN
      UPDATE lock_members x SET end_reason = 1, expires_at = t
       WHERE x.namespace_id = m.namespace_id AND x.name = m.name AND x.slot = m.slot;
      DELETE FROM lock_tickets q WHERE m.claim_token = m.fencing_token
         AND q.lease_id = m.lease_id AND q.account_id = m.account_id
         AND q.namespace_id = m.namespace_id AND q.name = m.name;
      INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
      VALUES (m.account_id, m.lease_id, m.namespace_id, m.name, t, 1)
      ON CONFLICT DO NOTHING;
      slots := array_remove(slots, m.slot);
      is_changed := true;
      a.outcome := 'done';
      IF (m.claim_token = m.fencing_token) IS NOT TRUE THEN
        a.fencing_token := m.fencing_token; a.acquired_at := m.acquired_at; a.expires_at := t;
      END IF;

    ELSE -- The request's lease does not live.
      why := NULL;
      IF is_own AND NOT row_lives THEN
        IF l.end_reason = 0 THEN -- Decided here, so that it stays true.
          l.end_reason := CASE WHEN l.expires_at >= l.acquired_at
                                 + l.max_hold_ms * interval '1 ms' THEN 5 ELSE 3 END;
          is_changed := true;
        END IF;
        why := l.end_reason;
      ELSIF r.lease_id IS NOT NULL AND r.needs_proof THEN
        SELECT e.reason INTO why FROM lease_ends e
         WHERE e.account_id = r.account_id AND e.lease_id = r.lease_id
           AND e.namespace_id = r.namespace_id AND e.name = r.name;
      END IF;
      w := NULL;
      IF l.gated AND why IS NULL AND r.lease_id IS NOT NULL THEN
        SELECT * INTO w FROM lock_tickets q
         WHERE q.lease_id = r.lease_id AND q.account_id = r.account_id
           AND q.namespace_id = r.namespace_id AND q.name = r.name;
      END IF;

      IF r.operation IN ('release', 'heartbeat', 'compensate') THEN
        a.outcome := (ARRAY['released', 'broken', CASE WHEN is_own THEN 'expired'
                       ELSE 'superseded' END, 'never_granted', 'hold_limit', 'expired'])[why];
        IF why IS NULL THEN
          a.outcome := CASE WHEN r.lease_id IS NULL AND l.account_id = r.account_id AND row_lives
                              AND NOT is_claim THEN 'unproved' ELSE 'unknown' END;
          IF r.lease_id IS NOT NULL AND r.operation <> 'heartbeat' AND NOT (is_own AND row_lives)
             AND m.slot IS NULL THEN
            -- Its acquire waits, or has not arrived yet: it is not granted any more.
            DELETE FROM lock_tickets q WHERE q.namespace_id = w.namespace_id AND q.name = w.name
               AND q.ticket = w.ticket;
            IF r.operation = 'release' THEN
              INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
              VALUES (r.account_id, r.lease_id, r.namespace_id, r.name, t, 4)
              ON CONFLICT DO NOTHING;
            END IF;
            l.mark_token := nextval('lock_fence');
            is_changed := true;
            a.outcome := 'never_granted';
          END IF;
        END IF;

      ELSIF why IS NOT NULL THEN
        DELETE FROM lock_tickets q WHERE l.gated AND q.lease_id = r.lease_id
           AND q.account_id = r.account_id AND q.namespace_id = r.namespace_id
           AND q.name = r.name;
        a.outcome := 'ended';

      ELSIF r.operation IN ('confirm', 'leave', 'abandon', 'unattended') THEN
        -- Only the newest request of a lease id speaks for its place.
        IF w.ticket IS NULL THEN
          a.outcome := 'gone';
        ELSIF w.node_id <> me OR w.attachment <> r.attachment THEN
          a.outcome := 'replaced';
        ELSIF r.operation = 'confirm' THEN
          UPDATE lock_tickets q
             SET is_detached = false, waits_until = t + r.wait_ms * interval '1 ms',
                 claim_token = NULL
           WHERE q.namespace_id = w.namespace_id AND q.name = w.name AND q.ticket = w.ticket
             AND (q.is_detached OR q.waits_until <= t OR q.claim_token IS NOT NULL);
          a.outcome := 'waiting'; a.ticket := w.ticket;
        ELSE
          IF w.needs_proof THEN
            UPDATE lock_tickets q SET is_detached = true, waits_until = least(q.waits_until, t)
             WHERE q.namespace_id = w.namespace_id AND q.name = w.name AND q.ticket = w.ticket;
          ELSE
            DELETE FROM lock_tickets q WHERE q.namespace_id = w.namespace_id
               AND q.name = w.name AND q.ticket = w.ticket;
          END IF;
          a.outcome := 'left';
        END IF;

      ELSE -- acquire
        IF live_nodes IS NULL THEN
          live_nodes := ARRAY(
            SELECT d.node_id FROM nodes d WHERE node_is_live(d.looked_at, c.recent_until,
              c.open_start, c.outage_start, c.outage_end)) || me;
        END IF;
        first_live := NULL;
        a.permits := CASE WHEN cardinality(slots) > 0 THEN in_force WHEN row_lives THEN 1 END;
        IF l.gated THEN
          SELECT q.ticket, coalesce(a.permits, q.permits) INTO first_live, a.permits
            FROM lock_tickets q
           WHERE (q.namespace_id, q.name, q.ticket)
                   >= (l.namespace_id, l.name, coalesce(l.first_ticket, 0))
             AND (q.namespace_id, q.name, q.ticket) <= (l.namespace_id, l.name, last_ticket)
             AND q.claim_token IS NULL AND NOT q.is_detached AND q.waits_until > t
             AND q.node_id + 0 = ANY (live_nodes)
           ORDER BY q.namespace_id, q.name, q.ticket LIMIT 1;
          IF NOT FOUND THEN
            a.permits := CASE WHEN cardinality(slots) > 0 THEN in_force WHEN row_lives THEN 1 END;
          END IF;
        END IF;
        fits := NOT row_lives AND permit_fits(r.permits, in_force, cardinality(slots))
          AND coalesce(first_live >= w.ticket, first_live IS NULL);
        IF w.ticket IS NOT NULL AND w.permits <> r.permits THEN
          a.outcome := 'limit_conflict'; a.permits := w.permits;
        ELSIF permits_conflict(r.permits, a.permits) THEN
          a.outcome := 'limit_conflict';
        ELSIF fits THEN
          DELETE FROM lock_tickets q WHERE q.namespace_id = w.namespace_id AND q.name = w.name
             AND q.ticket = w.ticket;
          w := NULL;
          w.account_id := r.account_id; w.token_id := r.token_id; w.lease_id := r.lease_id;
          w.lease_ms := r.lease_ms; w.permits := r.permits; w.max_hold_ms := r.max_hold_ms;
          w.needs_proof := r.needs_proof; w.holder := r.holder; w.metadata := r.metadata;
          IF l.account_id <> 0 AND l.end_reason IN (0, 3, 5) THEN
            RETURN NEXT gate_ended(l, 'superseded');
          END IF;
          t := clock_timestamp();
          g := gate_grant(l, w, slots, t, false);
          l := g.l; is_changed := true;
          IF r.permits = 1 THEN
            row_lives := true;
          ELSE
            slots := ARRAY(SELECT unnest(slots || g.new_slot) ORDER BY 1); in_force := r.permits;
          END IF;
          a.outcome := 'granted'; a.fencing_token := g.new_token; a.permits := r.permits;
          a.slot := g.new_slot; a.lease_ms := r.lease_ms; a.max_hold_ms := r.max_hold_ms;
          a.holder := r.holder; a.metadata := r.metadata;
          a.acquired_at := t; a.expires_at := g.new_end;
          a.expires_in_ms := least(r.lease_ms, r.max_hold_ms);
        ELSIF r.wait_ms = 0 THEN
          a.outcome := 'held';
        ELSIF token <> ALL (admitted) THEN
          a.outcome := 'refused';
        ELSIF w.ticket IS NULL AND r.max_tickets < 2147483647
              AND r.max_tickets <= gate_tickets_of(r.account_id, r.namespace_id, r.name,
                                                   r.max_tickets) THEN
          a.outcome := 'too_many_waiters';
        ELSE -- The ticket is drawn under the row lock. A repeated request keeps its place.
          IF NOT is_node_noted THEN
            INSERT INTO nodes AS d (node_id, looked_at) VALUES (me, clock_timestamp())
            ON CONFLICT (node_id) DO UPDATE SET looked_at = excluded.looked_at
             WHERE d.looked_at > '-infinity' -- a node without waiters does not look
               AND d.looked_at < excluded.looked_at - interval '1 s';
            is_node_noted := true;
          END IF;
          INSERT INTO lock_tickets AS q (namespace_id, name, ticket, account_id, token_id, node_id,
              attachment, waits_until, lease_id, lease_ms, permits, max_hold_ms, needs_proof,
              holder, metadata)
          VALUES (r.namespace_id, r.name, nextval('lock_ticket'), r.account_id, r.token_id, me,
              r.attachment, t + r.wait_ms * interval '1 ms', r.lease_id, r.lease_ms, r.permits,
              r.max_hold_ms, r.needs_proof, r.holder, r.metadata)
          ON CONFLICT (lease_id, account_id, namespace_id, name) DO UPDATE SET
              node_id = excluded.node_id, attachment = excluded.attachment,
              token_id = excluded.token_id, waits_until = excluded.waits_until,
              is_detached = false, claim_token = NULL, lease_ms = excluded.lease_ms,
              max_hold_ms = excluded.max_hold_ms, holder = excluded.holder,
              metadata = excluded.metadata
          RETURNING q.ticket INTO a.ticket;
          is_changed := is_changed OR NOT l.gated;
          l.gated := true;
          a.outcome := 'waiting';
        END IF;
      END IF;
    END IF;
    RETURN NEXT a;
    CONTINUE WHEN NOT r.is_last OR l.namespace_id IS NULL;

    -- The lock's last request is decided. Hand the lock over: to as many from the head of the line
    -- as fit, and never past the head.
    IF l.account_id = 0 AND l.end_reason = 0 AND cardinality(slots) = 0 THEN
      l.end_reason := 1; l.expires_at := t; l.mark_token := nextval('lock_fence');
      is_changed := true;
    END IF;
    first_live := NULL; from_ticket := coalesce(l.first_ticket, 0); refused := 0;
    WHILE l.gated AND NOT row_lives LOOP
      t := clock_timestamp();
      IF live_nodes IS NULL THEN
        live_nodes := ARRAY(
          SELECT d.node_id FROM nodes d WHERE node_is_live(d.looked_at, c.recent_until,
            c.open_start, c.outage_start, c.outage_end)) || me;
      END IF;
      SELECT * INTO w FROM lock_tickets q
       WHERE (q.namespace_id, q.name, q.ticket) >= (l.namespace_id, l.name, from_ticket)
         AND (q.namespace_id, q.name, q.ticket) <= (l.namespace_id, l.name, last_ticket)
         AND q.claim_token IS NULL AND NOT q.is_detached AND q.waits_until > t
         AND q.node_id + 0 = ANY (live_nodes)
       ORDER BY q.namespace_id, q.name, q.ticket LIMIT 1;
      first_live := w.ticket;
      EXIT WHEN w.ticket IS NULL OR NOT permit_fits(w.permits, in_force, cardinality(slots))
        OR refused >= 100; -- the others at the next visit, which is asked for at once
      from_ticket := w.ticket + 1;
      IF w.token_id <> ALL (admitted) THEN
        IF NOT token_is_admitted(w.token_id) THEN
          DELETE FROM lock_tickets q WHERE q.namespace_id = w.namespace_id AND q.name = w.name
             AND q.ticket = w.ticket;
          refused := refused + 1;
          CONTINUE;
        END IF;
        admitted := admitted || w.token_id;
      END IF;
      IF l.account_id <> 0 AND l.end_reason IN (0, 3, 5) THEN
        RETURN NEXT gate_ended(l, 'superseded');
      END IF;
      g := gate_grant(l, w, slots, t, true);
      l := g.l; is_changed := true;
      UPDATE lock_tickets q SET claim_token = g.new_token
       WHERE q.namespace_id = w.namespace_id AND q.name = w.name AND q.ticket = w.ticket;
      IF w.permits = 1 THEN
        row_lives := true;
      ELSE
        slots := ARRAY(SELECT unnest(slots || g.new_slot) ORDER BY 1); in_force := w.permits;
      END IF;
      a := NULL;
      a.outcome := 'claimed'; a.namespace_id := w.namespace_id; a.name := w.name;
      a.node_id := w.node_id; a.attachment := w.attachment; a.account_id := w.account_id;
      a.ticket := w.ticket; a.lease_id := w.lease_id; a.fencing_token := g.new_token;
      RETURN NEXT a;
    END LOOP;

    -- Tidy the head of the line: up to the first live waiter, tickets of dead nodes are detached,
    -- and those that nobody came back for are deleted.
    IF l.gated THEN
      SELECT * INTO w FROM lock_tickets q
       WHERE (q.namespace_id, q.name, q.ticket)
               >= (l.namespace_id, l.name, coalesce(l.first_ticket, 0))
         AND (q.namespace_id, q.name, q.ticket) <= (l.namespace_id, l.name, last_ticket)
       ORDER BY q.namespace_id, q.name, q.ticket LIMIT 1;
      IF w.claim_token <> l.fencing_token THEN
        PERFORM FROM lock_members x WHERE x.namespace_id = l.namespace_id AND x.name = l.name
            AND x.end_reason = 0 AND x.fencing_token = w.claim_token;
        IF NOT FOUND THEN -- Its claim was taken over by a statement that knows no claims.
          UPDATE lock_tickets q
             SET claim_token = NULL, is_detached = true, waits_until = least(q.waits_until, t)
           WHERE q.namespace_id = w.namespace_id AND q.name = w.name AND q.ticket = w.ticket
          RETURNING q.* INTO w;
        END IF;
      END IF;
      IF (first_live IS NOT NULL OR NOT row_lives) AND w.claim_token IS NULL
         AND w.ticket < coalesce(first_live, w.ticket + 1)
         AND (NOT w.is_detached OR w.waits_until < t - interval '20 s') THEN
        -- A part of them at each visit: the claim that was just granted waits for the commit.
        UPDATE lock_tickets q SET is_detached = true, waits_until = least(q.waits_until, t)
         WHERE q.ctid = ANY (ARRAY(
           SELECT x.ctid FROM lock_tickets x
            WHERE (x.namespace_id, x.name, x.ticket) >= (l.namespace_id, l.name, w.ticket)
              AND (x.namespace_id, x.name, x.ticket)
                    < (l.namespace_id, l.name, coalesce(first_live, last_ticket))
            ORDER BY x.namespace_id, x.name, x.ticket LIMIT 500))
           AND q.claim_token IS NULL AND NOT q.is_detached AND q.node_id <> ALL (live_nodes);
        DELETE FROM lock_tickets q
         WHERE q.ctid = ANY (ARRAY(
           SELECT x.ctid FROM lock_tickets x
            WHERE (x.namespace_id, x.name, x.ticket) >= (l.namespace_id, l.name, w.ticket)
              AND (x.namespace_id, x.name, x.ticket)
                    < (l.namespace_id, l.name, coalesce(first_live, last_ticket))
            ORDER BY x.namespace_id, x.name, x.ticket LIMIT 500))
           AND q.claim_token IS NULL
           AND q.waits_until < t - interval '20 s';
        SELECT * INTO w FROM lock_tickets q
         WHERE (q.namespace_id, q.name, q.ticket) >= (l.namespace_id, l.name, w.ticket)
           AND (q.namespace_id, q.name, q.ticket) <= (l.namespace_id, l.name, last_ticket)
         ORDER BY q.namespace_id, q.name, q.ticket LIMIT 1;
      END IF;
      l.first_ticket := w.ticket;
      IF w.ticket IS NULL AND cardinality(slots) = 0 THEN -- Nobody is left: no gate any more.
        l.gated := false; is_changed := true;
        IF NOT row_lives AND l.account_id = 0 THEN
          l.expires_at := t; -- touched now, says the sweeper
        END IF;
      END IF;
    END IF;
    IF is_changed THEN
      changed := changed || l;
    END IF;
    IF l.gated AND w.ticket IS NOT NULL THEN -- When the next waiter may get its turn at the latest.
      a := NULL;
      a.outcome := 'next_end'; a.namespace_id := l.namespace_id; a.name := l.name;
      IF refused >= 100 THEN
        a.expires_at := t;
      ELSIF row_lives THEN
        a.expires_at := lease_lapses_at(l.expires_at, greatest(l.lease_ms, l.renewed_ms),
          c.recent_until, c.outage_start, c.outage_end, c.grace_ms);
      ELSE
        SELECT min(lease_lapses_at(x.expires_at, greatest(x.lease_ms, x.renewed_ms),
                     c.recent_until, c.outage_start, c.outage_end, c.grace_ms))
          INTO a.expires_at FROM lock_members x
         WHERE x.namespace_id = l.namespace_id AND x.name = l.name AND x.end_reason = 0;
      END IF;
      IF a.expires_at IS NOT NULL THEN
        a.expires_in_ms := ceil(extract(epoch FROM a.expires_at - clock_timestamp()) * 1000);
        RETURN NEXT a;
      END IF;
    END IF;
  END LOOP;

  -- All rows are there, and locked: each is updated. One statement parses the table's constraints
  -- once, and no statistics lead it away from the primary key.
  INSERT INTO locks AS x SELECT * FROM unnest(changed)
  ON CONFLICT (namespace_id, name) DO UPDATE
     SET account_id = excluded.account_id, token_id = excluded.token_id,
         fencing_token = excluded.fencing_token, mark_token = excluded.mark_token,
         acquired_at = excluded.acquired_at, expires_at = excluded.expires_at,
         lease_id = excluded.lease_id, lease_ms = excluded.lease_ms,
         renewed_ms = excluded.renewed_ms, end_reason = excluded.end_reason,
         needs_proof = excluded.needs_proof, holder = excluded.holder,
         metadata = excluded.metadata, gated = excluded.gated,
         max_hold_ms = excluded.max_hold_ms, claim_token = excluded.claim_token,
         first_ticket = excluded.first_ticket;
END $$;

-- A scan of a line is in order by its key. Another index and a sort would read the whole line, and
-- seem as cheap while the statistics say that there are no tickets.
ALTER FUNCTION lock_gate SET enable_sort = off;

-- Grants several locks of a namespace to one lease id, or none: in key order, in one transaction,
-- and not in any line. A row for each lock: 'granted'; or 'held' or 'ended' for those because of
-- which nothing was granted; or one row: 'late', or 'limit' where the account may not hold as many
-- more locks. $12 `room`: how many it may.
CREATE FUNCTION lock_acquire_all(latest_at timestamptz, ns bigint, names text[], account bigint,
    token bigint, lease uuid, length_ms integer, requested_ms integer, max_hold_ms integer,
    holder text, metadata jsonb, room integer)
RETURNS SETOF gate_result LANGUAGE plpgsql AS $$
DECLARE
  lock_name text;
  l locks;
  rows locks[] := '{}';
  made text[] := '{}';       -- the locks whose rows were made for this
  wanted integer := 0;       -- how many locks the account does not hold yet
  w lock_tickets;
  g record;
  c lease_clock;
  a gate_result;
  t timestamptz;
  is_own boolean;
  is_refused boolean := false;
BEGIN
  FOREACH lock_name IN ARRAY ARRAY(SELECT n FROM unnest(names) n ORDER BY n COLLATE "C") LOOP
    a := NULL;
    a.namespace_id := ns; a.name := lock_name; a.lease_id := lease;
    LOOP
      SELECT * INTO l FROM locks x WHERE x.namespace_id = ns AND x.name = lock_name
         FOR NO KEY UPDATE;
      EXIT WHEN FOUND OR clock_timestamp() > latest_at;
      INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                         expires_at, lease_id, lease_ms, end_reason, needs_proof)
      VALUES (ns, lock_name, 0, 0, 0, clock_timestamp(), clock_timestamp(),
              '00000000-0000-0000-0000-000000000000', 1, 1, false)
      ON CONFLICT (namespace_id, name) DO NOTHING;
      made := made || lock_name;
    END LOOP;
    IF clock_timestamp() > latest_at THEN
      a.outcome := 'late';
      RETURN NEXT a;
      RETURN;
    END IF;
    IF l.gated THEN -- What has lapsed is ended first, and handed over to whoever waits.
      RETURN QUERY SELECT * FROM lock_gate(0, latest_at, ARRAY['advance'], ARRAY[ns],
          ARRAY[lock_name], '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
          '{}', '{}') found
        WHERE found.outcome IN ('lapsed', 'superseded');
      SELECT * INTO l FROM locks x WHERE x.namespace_id = ns AND x.name = lock_name;
    END IF;
    SELECT * INTO c FROM lease_clock;
    is_own := l.account_id = account AND l.lease_id = lease;
    PERFORM FROM lease_ends e WHERE e.account_id = account AND e.lease_id = lease
       AND e.namespace_id = ns AND e.name = lock_name;
    IF FOUND AND NOT is_own THEN
      a.outcome := 'ended';
    ELSIF lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
            c.recent_until, c.open_start, c.outage_start, c.outage_end, c.grace_ms) THEN
      a.outcome := CASE WHEN NOT is_own OR l.claim_token = l.fencing_token THEN 'held'
                        WHEN clock_timestamp() >= l.acquired_at
                             + l.max_hold_ms * interval '1 ms' THEN 'ended' END;
    ELSE
      IF is_own THEN
        a.outcome := 'ended'; -- decided here, and written down, so that it stays true
        UPDATE locks x SET end_reason = CASE WHEN x.expires_at >= x.acquired_at
                             + x.max_hold_ms * interval '1 ms' THEN 5 ELSE 3 END
         WHERE x.namespace_id = ns AND x.name = lock_name AND x.end_reason = 0;
      ELSE
        PERFORM FROM lock_tickets q WHERE l.gated AND q.namespace_id = ns AND q.name = lock_name
           AND NOT q.is_detached AND q.waits_until > clock_timestamp();
        a.outcome := CASE WHEN FOUND THEN 'held' END;
        wanted := wanted + 1;
      END IF;
    END IF;
    IF a.outcome IS NOT NULL THEN
      is_refused := true;
      RETURN NEXT a;
    END IF;
    rows := rows || l;
  END LOOP;
  IF NOT is_refused AND wanted > room THEN
    is_refused := true;
    a := NULL;
    a.outcome := 'limit'; a.namespace_id := ns; a.name := names[1];
    RETURN NEXT a;
  END IF;
  IF is_refused THEN
    DELETE FROM locks x WHERE x.namespace_id = ns AND x.name = ANY (made)
       AND x.account_id = 0 AND x.fencing_token = 0 AND x.mark_token IS NULL AND NOT x.gated;
    RETURN;
  END IF;
  FOREACH l IN ARRAY rows LOOP
    a := NULL;
    a.outcome := 'granted'; a.namespace_id := ns; a.name := l.name; a.lease_id := lease;
    t := clock_timestamp();
    IF l.account_id = account AND l.lease_id = lease THEN
      l.expires_at := greatest(l.expires_at, least(
        t + coalesce(requested_ms, l.lease_ms) * interval '1 ms',
        l.acquired_at + l.max_hold_ms * interval '1 ms'));
      l.renewed_ms := greatest(coalesce(requested_ms, l.lease_ms), l.renewed_ms);
    ELSE
      w := NULL;
      w.account_id := account; w.token_id := token; w.lease_id := lease; w.lease_ms := length_ms;
      w.permits := 1; w.max_hold_ms := lock_acquire_all.max_hold_ms; w.needs_proof := true;
      w.holder := lock_acquire_all.holder; w.metadata := lock_acquire_all.metadata;
      IF l.account_id <> 0 AND l.end_reason IN (0, 3, 5) THEN
        RETURN NEXT gate_ended(l, 'superseded');
      END IF;
      g := gate_grant(l, w, '{}', t, false);
      l := g.l;
    END IF;
    UPDATE locks x
       SET account_id = l.account_id, token_id = l.token_id, fencing_token = l.fencing_token,
           acquired_at = l.acquired_at, expires_at = l.expires_at, lease_id = l.lease_id,
           lease_ms = l.lease_ms, renewed_ms = l.renewed_ms, end_reason = l.end_reason,
           needs_proof = l.needs_proof, holder = l.holder, metadata = l.metadata,
           max_hold_ms = l.max_hold_ms, claim_token = l.claim_token
     WHERE x.namespace_id = l.namespace_id AND x.name = l.name;
    a.account_id := account; a.fencing_token := l.fencing_token; a.permits := 1;
    a.lease_ms := l.lease_ms; a.max_hold_ms := l.max_hold_ms; a.acquired_at := l.acquired_at;
    a.expires_at := l.expires_at; a.holder := l.holder; a.metadata := l.metadata;
    a.expires_in_ms := floor(extract(epoch FROM l.expires_at - t) * 1000);
    RETURN NEXT a;
  END LOOP;
END $$;
