-- The activity of accounts: sign-ins, and what was done to tokens, namespaces, passwords, e-mail
-- addresses and leases. For the owner of the account; the audit log is for administrators.
INSERT INTO schema_compatibility VALUES (5, '0.1.0');

CREATE TABLE account_activity (
  activity_id bigint GENERATED ALWAYS AS IDENTITY,
  account_id bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  action text COLLATE "C" NOT NULL,
  author text COLLATE "C" NOT NULL,
  means text COLLATE "C" NOT NULL,
  token_label text,
  token_hint text,
  client_ip inet,
  subject text NOT NULL,
  details jsonb,
  CONSTRAINT account_activity_pk PRIMARY KEY (activity_id),
  CONSTRAINT account_activity_account_fk FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE,
  CONSTRAINT account_activity_action_format CHECK (action ~ '^[a-z]+([.-][a-z]+)*$'),
  CONSTRAINT account_activity_author_known CHECK (author IN ('owner', 'administrator', 'visitor')),
  CONSTRAINT account_activity_means_known CHECK (means IN ('browser', 'token', 'command')),
  CONSTRAINT account_activity_token_together CHECK ((token_label IS NULL) = (token_hint IS NULL)),
  CONSTRAINT account_activity_details_object CHECK (jsonb_typeof(details) = 'object')
);
COMMENT ON TABLE account_activity IS 'What happened to an account, by whom, by what means, from where. Kept for 90 days, and not beyond the account.';
COMMENT ON COLUMN account_activity.activity_id IS 'in the order of the entries of an account: pages of the list continue after one';
COMMENT ON COLUMN account_activity.action IS 'a dotted lower-case verb phrase, such as token.create';
COMMENT ON COLUMN account_activity.author IS 'owner: the account itself; administrator: another account, or a command; visitor: somebody who failed to sign in';
COMMENT ON COLUMN account_activity.means IS 'browser: the pages; token: the API, with one of the account''s tokens; command: lockable admin';
COMMENT ON COLUMN account_activity.token_label IS 'the label that the token had then; NULL where the act was not done with a token of the account';
COMMENT ON COLUMN account_activity.token_hint IS 'that token''s last four characters';
COMMENT ON COLUMN account_activity.client_ip IS 'of the request; NULL for commands, and for administrators, whose own it is';
COMMENT ON COLUMN account_activity.subject IS 'what it was done to: an e-mail address, token:<label>, namespace:<name>, lock:<namespace>/<name>';
COMMENT ON COLUMN account_activity.details IS 'the values of the act; never a secret';
CREATE INDEX account_activity_account_index ON account_activity (account_id, activity_id);
CREATE INDEX account_activity_at_index ON account_activity (at);
-- Failed sign-ins of an account are counted at each of them, to bound their number.
CREATE INDEX account_activity_failed_index ON account_activity (account_id, at)
  WHERE action = 'account.sign-in-failed';
