-- Who may take locks: plans, accounts, sessions, API tokens, namespaces, and the audit log.
-- Units stand in names. Constraints are named, so that an error says which rule was broken.

-- The oldest program that works with the schema as each migration leaves it. A program refuses to start
-- only where it is older than the newest of these (src/db/migrate.rs).
CREATE TABLE schema_compatibility (
  migration bigint NOT NULL,
  oldest_program text NOT NULL,
  CONSTRAINT schema_compatibility_pk PRIMARY KEY (migration)
);
COMMENT ON COLUMN schema_compatibility.oldest_program IS 'semantic version of the oldest lockable that works with this migration applied';
INSERT INTO schema_compatibility VALUES (1, '0.1.0');

CREATE TABLE plans (
  plan_id bigint GENERATED ALWAYS AS IDENTITY,
  code text COLLATE "C" NOT NULL,
  name text NOT NULL,
  lease_min_ms integer NOT NULL,
  lease_default_ms integer NOT NULL,
  lease_max_ms integer NOT NULL,
  max_private_namespaces integer NOT NULL,
  max_tokens integer NOT NULL,
  max_live_locks integer NOT NULL,
  max_waiters integer NOT NULL,
  requests_per_second integer NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT plans_pk PRIMARY KEY (plan_id),
  CONSTRAINT plans_code_unique UNIQUE (code),
  CONSTRAINT plans_code_format CHECK (code ~ '^[a-z0-9-]{1,63}$'),
  CONSTRAINT plans_name_length CHECK (char_length(name) BETWEEN 1 AND 100),
  CONSTRAINT plans_lease_order CHECK (1000 <= lease_min_ms AND lease_min_ms <= lease_default_ms
    AND lease_default_ms <= lease_max_ms AND lease_max_ms <= 86400000),
  CONSTRAINT plans_private_namespaces_range CHECK (max_private_namespaces BETWEEN 0 AND 100000),
  CONSTRAINT plans_tokens_range CHECK (max_tokens BETWEEN 1 AND 100000),
  CONSTRAINT plans_live_locks_range CHECK (max_live_locks BETWEEN 0 AND 100000000),
  CONSTRAINT plans_waiters_range CHECK (max_waiters BETWEEN 0 AND 1000000),
  CONSTRAINT plans_requests_per_second_range CHECK (requests_per_second BETWEEN 1 AND 1000000)
);
COMMENT ON TABLE plans IS 'What an account may do: rows that administrators edit. A plan with lease_min_ms = lease_max_ms has a fixed lease.';
COMMENT ON COLUMN plans.code IS 'what commands and addresses name it by; never changes';
COMMENT ON COLUMN plans.lease_min_ms IS 'shortest lease, milliseconds';
COMMENT ON COLUMN plans.lease_default_ms IS 'lease where neither request, namespace nor account says otherwise, milliseconds';
COMMENT ON COLUMN plans.lease_max_ms IS 'longest lease, milliseconds';
COMMENT ON COLUMN plans.requests_per_second IS 'per account and node, with a burst of twice as many';

INSERT INTO plans (code, name, lease_min_ms, lease_default_ms, lease_max_ms, max_private_namespaces, max_tokens,
                   max_live_locks, max_waiters, requests_per_second)
VALUES ('hobbyist', 'Hobbyist', 60000, 60000, 60000, 0, 10, 10000, 100, 1000),
       ('business', 'Business', 1000, 60000, 86400000, 20, 100, 1000000, 10000, 20000);

CREATE TABLE accounts (
  account_id bigint GENERATED ALWAYS AS IDENTITY,
  email text NOT NULL,
  email_key text COLLATE "C" NOT NULL,
  password_hash text,
  plan_id bigint NOT NULL,
  is_admin boolean NOT NULL DEFAULT false,
  lease_default_ms integer,
  email_verified_at timestamptz,
  suspended_at timestamptz,
  suspended_reason text,
  deleting_since timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT accounts_pk PRIMARY KEY (account_id),
  CONSTRAINT accounts_email_unique UNIQUE (email_key),
  CONSTRAINT accounts_email_length CHECK (octet_length(email) BETWEEN 3 AND 254),
  CONSTRAINT accounts_plan_fk FOREIGN KEY (plan_id) REFERENCES plans,
  CONSTRAINT accounts_lease_default_range CHECK (lease_default_ms BETWEEN 1000 AND 86400000),
  CONSTRAINT accounts_suspension_together CHECK ((suspended_at IS NULL) = (suspended_reason IS NULL))
);
COMMENT ON COLUMN accounts.email IS 'as its owner typed it; compared through email_key';
COMMENT ON COLUMN accounts.email_key IS 'the address in lower case: two accounts never differ in case only';
COMMENT ON COLUMN accounts.password_hash IS 'argon2id in PHC form; NULL: no password set yet, sign-in only after a link by mail';
COMMENT ON COLUMN accounts.lease_default_ms IS 'milliseconds; NULL: the plan''s default';
COMMENT ON COLUMN accounts.deleting_since IS 'its owner deleted it: nothing works any more, its leases are being ended';
CREATE INDEX accounts_plan_index ON accounts (plan_id);

CREATE TABLE namespaces (
  namespace_id bigint GENERATED ALWAYS AS IDENTITY,
  account_id bigint,
  name text COLLATE "C" NOT NULL,
  lease_default_ms integer,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT namespaces_pk PRIMARY KEY (namespace_id),
  CONSTRAINT namespaces_account_fk FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE,
  CONSTRAINT namespaces_name_unique UNIQUE (account_id, name),
  CONSTRAINT namespaces_name_format CHECK (name ~ '^[a-z0-9-]{1,63}$'),
  CONSTRAINT namespaces_public_reserved CHECK ((account_id IS NULL) = (name = 'public')),
  CONSTRAINT namespaces_lease_default_range CHECK (lease_default_ms BETWEEN 1000 AND 86400000)
);
COMMENT ON COLUMN namespaces.account_id IS 'its owner; NULL only for the one public namespace, id 1';
COMMENT ON COLUMN namespaces.lease_default_ms IS 'milliseconds; NULL: the account''s default, else the plan''s';
CREATE UNIQUE INDEX namespaces_one_public ON namespaces ((account_id IS NULL)) WHERE account_id IS NULL;
INSERT INTO namespaces (name) VALUES ('public');

CREATE TABLE api_tokens (
  token_id bigint GENERATED ALWAYS AS IDENTITY,
  account_id bigint NOT NULL,
  namespace_id bigint NOT NULL,
  label text NOT NULL,
  scope text COLLATE "C" NOT NULL DEFAULT 'locks',
  token_sha256 bytea NOT NULL,
  hint text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz,
  CONSTRAINT api_tokens_pk PRIMARY KEY (token_id),
  CONSTRAINT api_tokens_account_fk FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE,
  CONSTRAINT api_tokens_namespace_fk FOREIGN KEY (namespace_id) REFERENCES namespaces ON DELETE CASCADE,
  CONSTRAINT api_tokens_sha256_unique UNIQUE (token_sha256),
  CONSTRAINT api_tokens_sha256_length CHECK (octet_length(token_sha256) = 32),
  CONSTRAINT api_tokens_label_length CHECK (char_length(label) BETWEEN 1 AND 100),
  CONSTRAINT api_tokens_hint_length CHECK (char_length(hint) = 4),
  CONSTRAINT api_tokens_scope_known CHECK (scope IN ('locks', 'manage'))
) WITH (fillfactor = 80);
COMMENT ON COLUMN api_tokens.token_sha256 IS 'SHA-256 of the token in its canonical text form; the token has 122 random bits, so no salt and no slow hash';
COMMENT ON COLUMN api_tokens.hint IS 'the token''s last four characters';
COMMENT ON COLUMN api_tokens.last_used_at IS 'written in batches: up to ten seconds behind';
CREATE INDEX api_tokens_account_index ON api_tokens (account_id);
CREATE INDEX api_tokens_namespace_index ON api_tokens (namespace_id);

CREATE TABLE sessions (
  session_sha256 bytea NOT NULL,
  account_id bigint,
  data jsonb NOT NULL,
  address inet,
  user_agent text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  CONSTRAINT sessions_pk PRIMARY KEY (session_sha256),
  CONSTRAINT sessions_account_fk FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE,
  CONSTRAINT sessions_sha256_length CHECK (octet_length(session_sha256) = 32),
  CONSTRAINT sessions_user_agent_length CHECK (octet_length(user_agent) <= 512)
);
COMMENT ON COLUMN sessions.session_sha256 IS 'SHA-256 of the session id: a stolen table signs nobody in';
CREATE INDEX sessions_account_index ON sessions (account_id);
CREATE INDEX sessions_expiry_index ON sessions (expires_at);

CREATE TABLE email_links (
  link_sha256 bytea NOT NULL,
  account_id bigint NOT NULL,
  purpose text COLLATE "C" NOT NULL,
  email text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  used_at timestamptz,
  CONSTRAINT email_links_pk PRIMARY KEY (link_sha256),
  CONSTRAINT email_links_account_fk FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE,
  CONSTRAINT email_links_sha256_length CHECK (octet_length(link_sha256) = 32),
  CONSTRAINT email_links_purpose_known CHECK (purpose IN ('verify-email', 'reset-password', 'change-email')),
  CONSTRAINT email_links_email_length CHECK (octet_length(email) BETWEEN 3 AND 254)
);
COMMENT ON TABLE email_links IS 'What was sent by mail: stored hashed, works once and for an hour, acts only on POST';
COMMENT ON COLUMN email_links.email IS 'the address that the link was sent to; for change-email the new one';
CREATE INDEX email_links_account_index ON email_links (account_id);
CREATE INDEX email_links_expiry_index ON email_links (expires_at);

CREATE TABLE audit_log (
  audit_id bigint GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor_account_id bigint,
  actor text NOT NULL,
  address inet,
  request_id text,
  action text COLLATE "C" NOT NULL,
  subject_account_id bigint,
  subject text NOT NULL,
  before jsonb,
  after jsonb,
  reason text,
  CONSTRAINT audit_log_pk PRIMARY KEY (audit_id),
  CONSTRAINT audit_log_action_format CHECK (action ~ '^[a-z]+([.-][a-z]+)*$')
);
COMMENT ON TABLE audit_log IS 'Who did what, from what to what, when, from where. No foreign keys: it outlives what it speaks of.';
COMMENT ON COLUMN audit_log.actor IS 'an e-mail address, or command:<operating system user> for lockable admin';
COMMENT ON COLUMN audit_log.subject IS 'what it was done to: an e-mail address, plan:<code>, lock:<namespace>/<name>, ...';
COMMENT ON COLUMN audit_log.subject_account_id IS 'the account that it was done to, where there is one';
CREATE INDEX audit_log_at_index ON audit_log (at);
CREATE INDEX audit_log_subject_index ON audit_log (subject_account_id);

-- Every node caches what these tables say of a caller. The announcement stands in the database, so that no way of
-- changing a row (browser, command, psql) can forget it. Payload: '<kind>:<id>'. Sent at commit, one a row and transaction.
CREATE FUNCTION announce_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE changed jsonb := CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
BEGIN
  PERFORM pg_notify('lockable_changes', TG_ARGV[0] || ':' || (changed ->> (TG_ARGV[0] || '_id')));
  RETURN NULL;
END $$;
CREATE TRIGGER plans_announce AFTER UPDATE OR DELETE ON plans
  FOR EACH ROW EXECUTE FUNCTION announce_change('plan');
CREATE TRIGGER accounts_announce AFTER DELETE OR UPDATE OF email, plan_id, is_admin, lease_default_ms, email_verified_at, suspended_at, deleting_since ON accounts
  FOR EACH ROW EXECUTE FUNCTION announce_change('account');
-- Of its account: what the plan covers depends on all of its namespaces.
CREATE TRIGGER namespaces_announce AFTER DELETE OR UPDATE OF name, lease_default_ms ON namespaces
  FOR EACH ROW EXECUTE FUNCTION announce_change('account');
CREATE TRIGGER api_tokens_announce AFTER INSERT OR DELETE OR UPDATE OF namespace_id, scope, token_sha256, expires_at, revoked_at ON api_tokens
  FOR EACH ROW EXECUTE FUNCTION announce_change('token');
