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
