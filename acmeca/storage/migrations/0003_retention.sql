-- What has ended is found by when it ended, so that it is deleted a few rows at a time and never looked for.
CREATE INDEX orders_ended ON orders (expires_at) WHERE status IN ('valid', 'invalid');
CREATE INDEX authorizations_ended ON authorizations (expires_at, id)
    WHERE status IN ('invalid', 'deactivated', 'expired', 'revoked');

-- The list of an account's orders (RFC 8555 §7.1.2.1) leaves the invalid ones out, and must not have to walk over them.
DROP INDEX orders_by_account;
CREATE INDEX orders_listed ON orders (account_id, created_at, id) WHERE status <> 'invalid';

-- The newest first, as they are listed; and how many there were in a week.
CREATE INDEX certificates_by_recording ON certificates (recorded_at);
CREATE INDEX certificates_unsigned ON certificates (recorded_at) WHERE signature IS NULL;

-- How far certificates were forgotten: all that expired up to `through` was looked at. It moves on by a bounded time in an hour, so
-- that a clock that leaps ahead has not reached what still lives before somebody sees it.
CREATE TABLE retention (
    name TEXT PRIMARY KEY,
    through BIGINT NOT NULL
);
