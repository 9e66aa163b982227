-- The events of locks in private namespaces (ADR 13): what was granted, released, broken, and what
-- lapsed. A record for people; no decision about a lease depends on it.
INSERT INTO schema_compatibility VALUES (6, '0.1.0');

ALTER TABLE plans ADD COLUMN history_days integer NOT NULL DEFAULT 0;
ALTER TABLE plans ADD CONSTRAINT plans_history_days_range CHECK (history_days BETWEEN 0 AND 365);
COMMENT ON COLUMN plans.history_days IS 'how long the events of locks in private namespaces are kept, days; 0: no history, only streams';
UPDATE plans SET history_days = 7 WHERE max_private_namespaces > 0;

ALTER TABLE namespaces ADD COLUMN purged_event_id bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN namespaces.purged_event_id IS 'the newest of its events that was deleted for its age';

CREATE TABLE lock_events (
  event_id bigint NOT NULL,
  namespace_id bigint NOT NULL,
  fencing_token bigint NOT NULL,
  at timestamptz NOT NULL,
  held_ms bigint,
  lease_id uuid,
  waited_ms integer,
  kind smallint NOT NULL,
  name text COLLATE "C" NOT NULL,
  holder text,
  token_label text,
  reason text,
  CONSTRAINT lock_events_pk PRIMARY KEY (namespace_id, name, fencing_token, kind),
  CONSTRAINT lock_events_order_unique UNIQUE (namespace_id, event_id),
  CONSTRAINT lock_events_kind_known CHECK (kind BETWEEN 0 AND 4)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0.1);
COMMENT ON TABLE lock_events IS 'One row an event; of several nodes that find the same end of a lease, the first writes it.';
COMMENT ON COLUMN lock_events.event_id IS 'ascending in the order in which streams show the events; there are gaps';
COMMENT ON COLUMN lock_events.kind IS '0: gap, events of the namespace were lost here; 1: granted, 2: released, 3: expired, 4: broken';
COMMENT ON COLUMN lock_events.name IS 'of the lock; empty: of a gap';
COMMENT ON COLUMN lock_events.fencing_token IS 'of the lease; of a gap: the event''s id';
COMMENT ON COLUMN lock_events.at IS 'when the lease began or ended, on the database''s clock';
COMMENT ON COLUMN lock_events.waited_ms IS 'of a grant: how long its request waited, milliseconds';
COMMENT ON COLUMN lock_events.held_ms IS 'of the end of a lease: how long it lasted, milliseconds';
COMMENT ON COLUMN lock_events.token_label IS 'of the API token that took the lock, as it was when the event was written';
-- Partial, and yet of all rows: so that a look-up by fencing token, which says nothing of the id,
-- never takes it, whatever the statistics say.
CREATE INDEX lock_events_lock_index ON lock_events (namespace_id, name, event_id)
 WHERE event_id > 0;

CREATE TABLE lock_event_counter (
  one boolean NOT NULL DEFAULT true,
  last_event_id bigint NOT NULL DEFAULT 0,
  settled_event_id bigint NOT NULL DEFAULT 0,
  unsettled_ids bigint[] NOT NULL DEFAULT '{}',
  unsettled_since timestamptz[] NOT NULL DEFAULT '{}',
  CONSTRAINT lock_event_counter_pk PRIMARY KEY (one),
  CONSTRAINT lock_event_counter_one_row CHECK (one)
) WITH (fillfactor = 10);
COMMENT ON TABLE lock_event_counter IS 'The source of event ids. A batch keeps its row locked until it has committed, so that ids become visible in order.';
COMMENT ON COLUMN lock_event_counter.settled_event_id IS 'events up to here keep their ids; streams and histories show them';
COMMENT ON COLUMN lock_event_counter.unsettled_ids IS 'the last ids of the batches of the last second; an event of another node can still get a place before events that came after it';
COMMENT ON COLUMN lock_event_counter.unsettled_since IS 'when those batches were written';
INSERT INTO lock_event_counter DEFAULT VALUES;

-- How long the events of a namespace are kept: for the plan's history, and for an hour at least, so
-- that streams can be resumed. NULL where there is no such namespace, or it is the public one.
CREATE FUNCTION event_retention(id bigint) RETURNS interval LANGUAGE sql STABLE AS $$
  SELECT greatest(p.history_days * interval '1 day', interval '1 hour')
    FROM namespaces n
    CROSS JOIN LATERAL (
      SELECT * FROM accounts a WHERE a.account_id = n.account_id AND a.deleting_since IS NULL
       LIMIT 1
    ) a
    CROSS JOIN LATERAL (SELECT * FROM plans p WHERE p.plan_id = a.plan_id LIMIT 1) p
   WHERE n.namespace_id = id
$$;

-- The newest event that keeps its id, at this instant. `since` ascends.
CREATE FUNCTION newest_settled(c lock_event_counter) RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT greatest(c.settled_event_id, max(u.id))
    FROM unnest(c.unsettled_ids, c.unsettled_since) u (id, since)
   WHERE u.since <= clock_timestamp() - interval '1 s'
$$;

-- The same for readers. It waits for a batch that is being written, which may have concluded from
-- an earlier instant that it can still move events.
CREATE FUNCTION settled_event_id() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared('lock_event_counter'::regclass::oid::bigint);
  RETURN (SELECT newest_settled(c) FROM lock_event_counter c);
END $$;
ALTER FUNCTION settled_event_id SET lock_timeout = '5s';

-- Writes events in the order of their instants, and returns how many were new. `acquired_ats` are
-- those of the leases that ended. What is known of a lease only from its grant (holder, token) is
-- taken from there: from the same batch, or from the table.
--
-- Nodes write the events of a lock independently, so those of a lease may come after those of the
-- next one. An event is shown only after a second, and until then one that came too early is moved
-- behind it: it gets a new id.
CREATE FUNCTION write_lock_events(namespace_ids bigint[], names text[], fencing_tokens bigint[],
    kinds smallint[], ats timestamptz[], lease_ids uuid[], token_ids bigint[], holders text[],
    waits integer[], acquired_ats timestamptz[], reasons text[])
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  c lock_event_counter;
  t timestamptz;
  written integer;
  moved integer;
  last bigint;
  late_namespaces bigint[];
  late_names text[];
  late_ats timestamptz[];
BEGIN
  PERFORM pg_advisory_xact_lock('lock_event_counter'::regclass::oid::bigint);
  SELECT * INTO STRICT c FROM lock_event_counter FOR NO KEY UPDATE;
  t := clock_timestamp();
  c.settled_event_id := newest_settled(c);
  WITH batch AS MATERIALIZED (
    SELECT i.namespace_id, i.name, i.fencing_token, i.kind, i.lease_id, i.waited_ms, i.reason,
           CASE WHEN i.kind = 0 THEN t ELSE i.at END AS at, max(i.holder) OVER lease AS lease_holder,
           max(i.token_id) OVER lease AS lease_token_id,
           min(CASE WHEN i.kind = 1 THEN i.at ELSE i.acquired_at END) OVER lease
             AS lease_acquired_at
      FROM (SELECT unnest(namespace_ids) AS namespace_id, unnest(names) AS name,
                   unnest(fencing_tokens) AS fencing_token, unnest(kinds) AS kind,
                   unnest(ats) AS at, unnest(lease_ids) AS lease_id,
                   unnest(token_ids) AS token_id, unnest(holders) AS holder,
                   unnest(waits) AS waited_ms, unnest(acquired_ats) AS acquired_at,
                   unnest(reasons) AS reason) i
    WINDOW lease AS (PARTITION BY i.namespace_id, i.name COLLATE "C", i.fencing_token)
  ), spaces AS MATERIALIZED (
    SELECT s.namespace_id, event_retention(s.namespace_id) AS retention
      FROM (SELECT DISTINCT b.namespace_id FROM batch b) s
  ), labels AS MATERIALIZED (
    SELECT i.token_id, k.label
      FROM (SELECT DISTINCT b.lease_token_id AS token_id FROM batch b) i
      CROSS JOIN LATERAL (SELECT k.label FROM api_tokens k WHERE k.token_id = i.token_id LIMIT 1) k
  ), completed AS (
    SELECT b.*, coalesce(b.lease_holder, g.holder) AS known_holder,
           coalesce(l.label, g.token_label) AS label,
           coalesce(b.lease_acquired_at, g.at) AS known_acquired_at
      FROM batch b
      JOIN spaces s USING (namespace_id)
      LEFT JOIN labels l ON l.token_id = b.lease_token_id
      LEFT JOIN LATERAL (
        SELECT * FROM lock_events g
         WHERE b.kind > 1 AND b.lease_token_id IS NULL AND g.namespace_id = b.namespace_id
           AND g.name = b.name AND g.fencing_token = b.fencing_token AND g.kind = 1 LIMIT 1
      ) g ON true
     WHERE b.at > t - s.retention
  ), inserted AS (
    INSERT INTO lock_events AS e (event_id, namespace_id, name, fencing_token, kind, at, lease_id,
                                  waited_ms, held_ms, holder, token_label, reason)
    SELECT n.event_id, n.namespace_id, n.name,
           CASE WHEN n.kind = 0 THEN n.event_id ELSE n.fencing_token END, n.kind, n.at, n.lease_id,
           n.waited_ms,
           CASE WHEN n.kind > 1
                THEN round(extract(epoch FROM n.at - n.known_acquired_at) * 1000) END,
           n.known_holder, n.label, n.reason
      FROM (SELECT b.*, c.last_event_id
                     + row_number() OVER (ORDER BY b.at, b.fencing_token, b.kind) AS event_id
              FROM completed b) n
    ON CONFLICT DO NOTHING
    RETURNING e.namespace_id, e.name, e.fencing_token, e.kind, e.at
  ), firsts AS (
    SELECT DISTINCT ON (i.namespace_id, i.name) i.* FROM inserted i WHERE i.kind > 0
     ORDER BY i.namespace_id, i.name, i.at, i.fencing_token, i.kind
  ), late AS ( -- the locks with events that came too early
    SELECT f.namespace_id, f.name, f.at
      FROM spaces s
      CROSS JOIN LATERAL (
        SELECT * FROM lock_events e
         WHERE e.namespace_id = s.namespace_id AND e.event_id > c.settled_event_id
           AND e.event_id <= c.last_event_id OFFSET 0
      ) e
      JOIN firsts f ON f.namespace_id = e.namespace_id AND f.name = e.name
     WHERE (e.at, e.fencing_token, e.kind) > (f.at, f.fencing_token, f.kind)
     GROUP BY 1, 2, 3
  )
  SELECT (SELECT count(*) FROM inserted), array_agg(l.namespace_id), array_agg(l.name),
         array_agg(l.at)
    INTO written, late_namespaces, late_names, late_ats FROM late l;
  IF written = 0 THEN
    RETURN 0;
  END IF;
  last := c.last_event_id + cardinality(namespace_ids);
  IF late_namespaces IS NOT NULL THEN
    WITH later AS (
      SELECT e.*, row_number() OVER (ORDER BY e.at, e.fencing_token, e.kind) AS n
        FROM (SELECT unnest(late_namespaces) AS namespace_id, unnest(late_names) AS name,
                     unnest(late_ats) AS at) l
        CROSS JOIN LATERAL (
          SELECT e.* FROM lock_events e
           WHERE e.namespace_id = l.namespace_id AND e.name = l.name AND e.event_id > 0
             AND e.event_id > c.settled_event_id AND e.at >= l.at OFFSET 0
        ) e
    )
    UPDATE lock_events e
       SET event_id = last + l.n, holder = coalesce(e.holder, g.holder),
           token_label = coalesce(e.token_label, g.token_label),
           held_ms = CASE WHEN e.kind > 1 THEN coalesce(e.held_ms,
                       round(extract(epoch FROM e.at - g.at) * 1000)) END
      FROM later l
      LEFT JOIN LATERAL (
        SELECT * FROM lock_events g
         WHERE g.namespace_id = l.namespace_id AND g.name = l.name
           AND g.fencing_token = l.fencing_token AND g.kind = 1 LIMIT 1
      ) g ON true
     WHERE e.namespace_id = l.namespace_id AND e.event_id = l.event_id;
    GET DIAGNOSTICS moved = ROW_COUNT;
    last := last + moved;
  END IF;
  UPDATE lock_event_counter x
     SET last_event_id = last, settled_event_id = c.settled_event_id,
         unsettled_ids = u.ids || last, unsettled_since = u.since || t
    FROM (SELECT coalesce(array_agg(u.id ORDER BY u.id), '{}') AS ids,
                 coalesce(array_agg(u.since ORDER BY u.id), '{}') AS since
            FROM unnest(c.unsettled_ids, c.unsettled_since) u (id, since)
           WHERE u.id > c.settled_event_id) u;
  RETURN written;
END $$;

-- Planned each time, for the true size of the batch.
ALTER FUNCTION write_lock_events SET plan_cache_mode = force_custom_plan;
-- Batches take turns.
ALTER FUNCTION write_lock_events SET lock_timeout = '5s';

-- A lease that ended, as a row of the gate's result.
CREATE FUNCTION gate_ended(l locks, what text) RETURNS gate_result LANGUAGE sql IMMUTABLE AS $$
  SELECT ROW(NULL, what, l.namespace_id, l.name, NULL, NULL, l.account_id, NULL, l.lease_id,
             l.fencing_token, 1, NULL, l.lease_ms, l.max_hold_ms, l.acquired_at, l.expires_at,
             NULL, NULL, NULL)::gate_result
$$;

-- The two functions of migration 0004 that end leases, and say of each which one it was: of a lease
-- that was released or broken in the row of the outcome, of a lapsed one in a row of its own,
-- 'lapsed' when its end was found, 'superseded' when its row was taken over. Nothing else in them
-- has changed.
CREATE OR REPLACE FUNCTION lock_gate(me bigint, latest_at timestamptz, operations text[],
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

-- As in migration 0004.
ALTER FUNCTION lock_gate SET enable_sort = off;

CREATE OR REPLACE FUNCTION lock_acquire_all(latest_at timestamptz, ns bigint, names text[], account bigint,
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
