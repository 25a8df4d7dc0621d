-- The data model (DESIGN §4). Times are Unix seconds, UTC. Serials are lower-case hex of the whole octets, as openssl prints
-- them without colons. JSON columns hold canonical text, so that a compare-and-swap may compare them as they are.

-- An issuer is a row from the first day: several can be active or draining, and every URL in a certificate names its issuer.
CREATE TABLE issuers (
    id TEXT PRIMARY KEY,
    parent_id TEXT REFERENCES issuers (id),            -- NULL: a root
    state TEXT NOT NULL CHECK (state IN ('active', 'draining', 'retired')),
    certificate BLOB NOT NULL,                         -- DER
    key_reference TEXT,                                -- path below the data directory; NULL: the server never opens its key
    ocsp_url TEXT NOT NULL,                            -- these three are fixed for life: they stand in its certificates
    crl_url TEXT NOT NULL,
    issuer_url TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    thumbprint TEXT NOT NULL UNIQUE,                   -- RFC 7638, base64url; a deactivated account keeps its key
    jwk TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('valid', 'deactivated', 'revoked')),
    contact TEXT NOT NULL,                             -- JSON array
    created_at BIGINT NOT NULL
);

CREATE TABLE orders (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    status TEXT NOT NULL CHECK (status IN ('pending', 'ready', 'processing', 'valid', 'invalid')),
    identifiers TEXT NOT NULL,                         -- JSON array of [type, value]
    error TEXT,                                        -- JSON problem document
    certificate_id TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX orders_by_account ON orders (account_id, created_at, id);
CREATE INDEX orders_open ON orders (expires_at) WHERE status IN ('pending', 'ready');
CREATE INDEX orders_processing ON orders (id) WHERE status = 'processing';

CREATE TABLE authorizations (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    identifier_type TEXT NOT NULL,
    identifier_value TEXT NOT NULL,                    -- without `*.`
    wildcard BIGINT NOT NULL CHECK (wildcard IN (0, 1)),
    status TEXT NOT NULL CHECK (status IN ('pending', 'valid', 'invalid', 'deactivated', 'expired', 'revoked')),
    challenges TEXT NOT NULL,                          -- JSON array
    expires_at BIGINT NOT NULL
);
CREATE INDEX authorizations_by_identifier ON authorizations (account_id, identifier_value, identifier_type, status);
CREATE INDEX authorizations_open ON authorizations (expires_at) WHERE status IN ('pending', 'valid');

CREATE TABLE order_authorizations (
    order_id TEXT NOT NULL REFERENCES orders (id),
    position BIGINT NOT NULL,                          -- the order of the identifiers in the order
    authorization_id TEXT NOT NULL REFERENCES authorizations (id),
    PRIMARY KEY (order_id, position)
);
CREATE INDEX order_authorizations_reversed ON order_authorizations (authorization_id);

-- Work that has to survive a restart: validations begun and not yet judged.
CREATE TABLE validation_jobs (
    authorization_id TEXT PRIMARY KEY REFERENCES authorizations (id),
    challenge_type TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- RULES §4: serial and to-be-signed bytes are here before the key is used; the signature joins them afterwards. What is
-- served is assembled from these two columns, so it cannot differ from what was recorded.
CREATE TABLE certificates (
    id TEXT PRIMARY KEY,
    serial TEXT NOT NULL UNIQUE,
    issuer_id TEXT NOT NULL REFERENCES issuers (id),
    account_id TEXT REFERENCES accounts (id),          -- NULL: the server's own (listener, OCSP responder)
    order_id TEXT UNIQUE REFERENCES orders (id),       -- one order, one certificate, whatever races
    profile TEXT NOT NULL,
    spki_sha256 BLOB NOT NULL,
    not_before BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    tbs BLOB NOT NULL,
    signature BLOB,                                    -- NULL: recorded, not yet signed
    recorded_at BIGINT NOT NULL,
    issued_at BIGINT,
    revoked_at BIGINT,
    revocation_reason BIGINT,                          -- RFC 5280 §5.3.1; NULL: no reason given
    revocation_sequence BIGINT UNIQUE                  -- rises by one with each revocation of any issuer
);
CREATE INDEX certificates_by_expiry ON certificates (not_after);
CREATE INDEX certificates_by_account ON certificates (account_id);
CREATE INDEX certificates_by_key ON certificates (spki_sha256);
CREATE INDEX certificates_revoked ON certificates (issuer_id, revocation_sequence) WHERE revoked_at IS NOT NULL;

CREATE TABLE certificate_names (
    certificate_id TEXT NOT NULL REFERENCES certificates (id),
    name TEXT NOT NULL,
    reversed_name TEXT NOT NULL,                       -- labels from right to left, `internal.corp.db.`: suffix search is prefix search
    PRIMARY KEY (certificate_id, name)
);
CREATE INDEX certificate_names_exact ON certificate_names (name);
CREATE INDEX certificate_names_suffix ON certificate_names (reversed_name);

CREATE TABLE blocked_keys (
    spki_sha256 BLOB PRIMARY KEY,
    thumbprint TEXT NOT NULL,                          -- the same key as an account key would name it
    blocked_at BIGINT NOT NULL,
    serial TEXT                                        -- the certificate whose compromise blocked it
);
CREATE INDEX blocked_keys_by_thumbprint ON blocked_keys (thumbprint);

-- A CRL's number, time and extent are here before it is signed (`der` is NULL until then).
CREATE TABLE crls (
    issuer_id TEXT NOT NULL REFERENCES issuers (id),
    number BIGINT NOT NULL,
    this_update BIGINT NOT NULL,
    next_update BIGINT NOT NULL,
    through_sequence BIGINT NOT NULL,                  -- holds every revocation up to this one
    entries BIGINT NOT NULL,
    der BLOB,
    PRIMARY KEY (issuer_id, number)
);

CREATE TABLE audit (
    writer TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    subject TEXT NOT NULL,
    event TEXT NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (writer, sequence)
);
