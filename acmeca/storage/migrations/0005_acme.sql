-- incompatible
-- A program from before this step would serve accounts whose grant was disabled, and issue beyond what a grant allows.

-- What an external account binding (RFC 8555 §7.3.4) lets its accounts have. The MAC key is not here: it is derived from a key
-- outside the database, so that no backup and no journal holds it.
CREATE TABLE grants (
    id TEXT PRIMARY KEY,                               -- the `kid` of the inner JWS
    owner TEXT NOT NULL,
    terms TEXT NOT NULL,                               -- JSON: names, networks, profiles, lifetime, quota (policy/grants.py)
    mac_sha256 BLOB NOT NULL,                          -- digest of the MAC key: tells a wrong key file from a wrong client
    single_use BIGINT NOT NULL CHECK (single_use IN (0, 1)),
    status TEXT NOT NULL CHECK (status IN ('active', 'disabled')),
    created_at BIGINT NOT NULL,
    expires_at BIGINT,                                 -- NULL: never
    changes BIGINT NOT NULL DEFAULT 0                  -- how often status or end were set: a replay knows which was later
);
CREATE INDEX grants_by_owner ON grants (owner, created_at, id);

-- No foreign key: a restore may bring an account back without its grant, and then it is bound to one that is over.
ALTER TABLE accounts ADD COLUMN grant_id TEXT;
ALTER TABLE accounts ADD COLUMN terms_of_service TEXT; -- the URL that was agreed to; NULL: none
CREATE INDEX accounts_by_grant ON accounts (grant_id) WHERE grant_id IS NOT NULL;

-- A profile as it was when an order was made with it: named by the digest of its document, so that a change of the
-- configuration changes no order that was made before.
CREATE TABLE profiles (
    id TEXT PRIMARY KEY,                               -- SHA-256 of `document`, hex
    name TEXT NOT NULL,
    document TEXT NOT NULL                             -- canonical JSON (policy/profiles.py)
);

ALTER TABLE orders ADD COLUMN profile TEXT NOT NULL DEFAULT 'server';
ALTER TABLE orders ADD COLUMN profile_id TEXT REFERENCES profiles (id);
ALTER TABLE orders ADD COLUMN not_before BIGINT;       -- asked for (§7.4); NULL: not asked
ALTER TABLE orders ADD COLUMN not_after BIGINT;
ALTER TABLE orders ADD COLUMN replaces TEXT;           -- identifier of the certificate that it replaces (RFC 9773 §4.1, §5)
CREATE INDEX orders_replacing ON orders (replaces) WHERE replaces IS NOT NULL;

-- NULL: control was shown by a challenge. Otherwise the grant by which it was valid from the beginning.
ALTER TABLE authorizations ADD COLUMN grant_id TEXT REFERENCES grants (id);

-- An account may have any number of authorizations for one name: those that count longest are found without the others.
DROP INDEX authorizations_by_identifier;
CREATE INDEX authorizations_by_identifier
    ON authorizations (account_id, identifier_value, identifier_type, wildcard, status, expires_at);

ALTER TABLE validation_jobs ADD COLUMN account_id TEXT; -- whose it is; NULL for those of before this step
CREATE INDEX validation_jobs_by_account ON validation_jobs (account_id);

ALTER TABLE certificates ADD COLUMN profile_id TEXT REFERENCES profiles (id);
ALTER TABLE certificates ADD COLUMN replaced_by TEXT;  -- id of the certificate that took its place (RFC 9773 §5)

-- An operator's word on when certificates are to be renewed. One row for a set of certificates, however large: which they are is
-- decided when a client asks.
CREATE TABLE renewal_overrides (
    id TEXT PRIMARY KEY,
    sequence BIGINT NOT NULL,                          -- the highest one that fits goes before the others
    selection TEXT NOT NULL,                           -- JSON: which certificates (policy/renewals.py)
    renew_from BIGINT NOT NULL,
    renew_until BIGINT NOT NULL,
    explanation_url TEXT,
    set_at BIGINT NOT NULL,                            -- certificates that were recorded later are not meant
    cleared_at BIGINT                                  -- NULL: in force
);
CREATE INDEX renewal_overrides_in_force ON renewal_overrides (sequence) WHERE cleared_at IS NULL;

-- Digest of a certificate's names, so that a renewal is known: the same account has had one for exactly the same names.
ALTER TABLE certificates ADD COLUMN names_digest BLOB; -- NULL for those of before this step
DROP INDEX certificates_by_account;
CREATE INDEX certificates_by_account ON certificates (account_id, names_digest);

-- An administrator's reason. `thumbprint` is empty while nothing but the digest of the key is known.
ALTER TABLE blocked_keys ADD COLUMN why TEXT;

-- How far each limit is used up (RFC 8555 §6.6). A row is bounded, and goes when its limit is whole again.
CREATE TABLE limits (
    name TEXT PRIMARY KEY,                             -- which limit, and whose: policy/limits.py, `Taking.key`
    rate TEXT NOT NULL,                                -- what it was when it was used last: "500/7d"
    uses TEXT NOT NULL,                                -- JSON: [[moment, how many], …], the oldest first
    whole_at BIGINT NOT NULL                           -- when nothing of it is used up any more
);
CREATE INDEX limits_by_time ON limits (whole_at);
