-- The locks. What decides about a lease stands in its one row; the clock is the database's; nothing here has a foreign key
-- (each acquire would lock the one row of the public namespace) or an index on a column that a heartbeat changes.
INSERT INTO schema_compatibility VALUES (2, '0.1.0');

-- One sequence for all locks, so that deleting an idle row never sets a lock's fencing tokens back.
CREATE SEQUENCE lock_fence AS bigint MINVALUE 1 MAXVALUE 9007199254740991 CACHE 1 NO CYCLE;
COMMENT ON SEQUENCE lock_fence IS 'fencing tokens of all locks, below 2^53 so that JSON readers keep them exact; CACHE 1, or connections would draw out of order';

CREATE TABLE locks (
  namespace_id bigint NOT NULL,
  account_id bigint NOT NULL,
  token_id bigint NOT NULL,
  fencing_token bigint NOT NULL,
  seen_token bigint,
  acquired_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  lease_id uuid NOT NULL,
  lease_ms integer NOT NULL,
  end_reason smallint NOT NULL DEFAULT 0,
  needs_proof boolean NOT NULL,
  name text COLLATE "C" NOT NULL,
  holder text,
  metadata jsonb,
  CONSTRAINT locks_pk PRIMARY KEY (namespace_id, name),
  CONSTRAINT locks_name_length CHECK (octet_length(name) BETWEEN 1 AND 255),
  CONSTRAINT locks_fencing_token_range CHECK (fencing_token BETWEEN 0 AND 9007199254740991),
  CONSTRAINT locks_lease_range CHECK (lease_ms BETWEEN 1 AND 86400000),
  CONSTRAINT locks_end_reason_known CHECK (end_reason IN (0, 1, 2)),
  CONSTRAINT locks_holder_length CHECK (octet_length(holder) <= 256),
  CONSTRAINT locks_metadata_size CHECK (octet_length(metadata::text) <= 8192)
) WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE locks IS 'One row a lock, of its latest lease; kept after the lease has ended, deleted when idle for an hour. fillfactor 45 leaves room on its page for a second version of every row, which keeps heartbeats heap-only.';
COMMENT ON COLUMN locks.account_id IS 'the account that holds, or last held, the lock';
COMMENT ON COLUMN locks.token_id IS 'the API token that the lease was granted to';
COMMENT ON COLUMN locks.seen_token IS 'of proposed rows only: the fencing token that the granting statement had looked at; means nothing in a stored row';
COMMENT ON COLUMN locks.expires_at IS 'the lease ends here on the database''s clock, unless lease_is_live says otherwise after an outage; at a release or break, the instant of it';
COMMENT ON COLUMN locks.lease_ms IS 'the length that the lease was granted with, milliseconds; what a heartbeat renews by';
COMMENT ON COLUMN locks.end_reason IS '0: live or lapsed, 1: released, 2: broken';
COMMENT ON COLUMN locks.needs_proof IS 'renewed and released only with its lease_id; false: by any process of the account';
-- An account's locks: the account page, the count against the plan's limit, the end of an account.
CREATE INDEX locks_account_index ON locks (account_id);

-- The memory of ended leases: written by the statement that ends a lease which has an id of its client's choosing, kept for an hour
-- at least. A lease id serves one lease, whatever the lock.
CREATE TABLE lease_ends (
  account_id bigint NOT NULL,
  lease_id uuid NOT NULL,
  namespace_id bigint NOT NULL,
  ended_at timestamptz NOT NULL,
  reason smallint NOT NULL,
  name text COLLATE "C" NOT NULL,
  CONSTRAINT lease_ends_pk PRIMARY KEY (account_id, lease_id, namespace_id, name),
  CONSTRAINT lease_ends_reason_known CHECK (reason IN (1, 2, 3))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
COMMENT ON COLUMN lease_ends.reason IS '1: released, 2: broken, 3: lapsed and taken over';

-- The outage record (P10). Ticked twice a second by every ready node.
CREATE TABLE service_clock (
  one boolean NOT NULL DEFAULT true,
  last_ok_at timestamptz NOT NULL,
  outage_start timestamptz NOT NULL,
  outage_end timestamptz NOT NULL,
  grace_ms integer NOT NULL DEFAULT 60000,
  CONSTRAINT service_clock_pk PRIMARY KEY (one),
  CONSTRAINT service_clock_one_row CHECK (one),
  CONSTRAINT service_clock_grace_range CHECK (grace_ms BETWEEN 0 AND 86400000),
  CONSTRAINT service_clock_outage_order CHECK (outage_start <= outage_end)
) WITH (fillfactor = 10);
COMMENT ON TABLE service_clock IS 'When a node could last commit, and the latest stretch of about three seconds or more in which none could.';
COMMENT ON COLUMN service_clock.grace_ms IS 'how long after an outage its leases may still be renewed before anybody else gets the lock, milliseconds';
INSERT INTO service_clock (last_ok_at, outage_start, outage_end) VALUES (clock_timestamp(), 'epoch', 'epoch');

-- Under the row's lock, on the clock of the instant after it was had: a tick that had to wait knows what the one before it wrote.
-- A tick stamps the instant at which it began, and may hang in its commit for as long as an outage lasts. So ticks are half a
-- second apart and a gap counts from two and a half: an outage of three seconds is found wherever in between it begins.
-- A clock that went back (set right after a jump, or another server's after a failover) takes the record back with it.
CREATE FUNCTION tick_service_clock() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  c service_clock;
  t timestamptz;
BEGIN
  SELECT * INTO STRICT c FROM service_clock FOR NO KEY UPDATE;
  t := clock_timestamp();
  UPDATE service_clock SET
    outage_start = CASE WHEN t < c.last_ok_at THEN least(c.outage_start, t)
                        WHEN t <= c.last_ok_at + interval '2.5 s' OR c.outage_end + c.grace_ms * interval '1 ms' > c.last_ok_at THEN c.outage_start
                        ELSE c.last_ok_at END,
    outage_end = CASE WHEN t < c.last_ok_at THEN least(c.outage_end, t)
                      WHEN t <= c.last_ok_at + interval '2.5 s' THEN c.outage_end
                      ELSE t END,
    last_ok_at = t;
  RETURN t > c.last_ok_at + interval '2.5 s';
END $$;
COMMENT ON FUNCTION tick_service_clock IS 'true: this tick found that an outage has just ended';

-- What a statement needs of the clock row, read once a statement. A snapshot may be as old as the waits for row locks, a second each:
-- then "recent" fails early and nothing is given away; a gap cannot have been recorded since (ADR 3).
CREATE VIEW lease_clock AS
  SELECT last_ok_at + interval '2.5 s' AS recent_until, outage_start,
         outage_end + grace_ms * interval '1 ms' AS grace_end, outage_end, grace_ms,
         CASE WHEN outage_end + grace_ms * interval '1 ms' > last_ok_at THEN outage_start ELSE last_ok_at END AS open_start
    FROM service_clock;
COMMENT ON COLUMN lease_clock.open_start IS 'where an outage that still runs began, if one does';

-- The one definition of "this lease has not ended". Inlined by the planner: each argument from lease_clock is used once.
-- The clock is read up to three times, each later than the one before; every answer is the right one for the last reading.
CREATE FUNCTION lease_is_live(expires_at timestamptz, end_reason smallint, lease_ms integer,
    recent_until timestamptz, open_start timestamptz, outage_start timestamptz, outage_end timestamptz, grace_ms integer)
RETURNS boolean LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
  SELECT end_reason = 0 AND (expires_at > clock_timestamp() OR
    CASE WHEN clock_timestamp() > recent_until THEN expires_at > open_start
         ELSE expires_at > outage_start AND clock_timestamp() < outage_end + least(lease_ms, grace_ms) * interval '1 ms' END)
$$;

-- Which database this is (P4): a node that finds another one moves the fencing tokens far ahead before any grant.
-- Left out of backups, so that a restored one is always another database.
CREATE TABLE database_identity (
  one boolean NOT NULL DEFAULT true,
  system_identifier bigint NOT NULL,
  timeline bigint NOT NULL,
  CONSTRAINT database_identity_pk PRIMARY KEY (one),
  CONSTRAINT database_identity_one_row CHECK (one)
);
INSERT INTO database_identity (system_identifier, timeline)
  SELECT system_identifier, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint FROM pg_control_system();
