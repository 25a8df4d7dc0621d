-- Several processes may write to one database. Each has a name (its chain in the audit and its journal bear it) and, as long as
-- it runs, an instance: what one instance has in hand is nobody else's.
CREATE TABLE writers (
    name TEXT PRIMARY KEY,
    instance TEXT NOT NULL,                            -- '' when it cannot be running any more
    last_commit BIGINT NOT NULL,                       -- rises by one with each commit of any writer: also a sign of life
    ended BIGINT NOT NULL CHECK (ended IN (0, 1))      -- 1: it said that it stops, and has nothing in hand
);

-- One instance at a time has a duty that is enough to be done once. The fence rises with each change of hands.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    instance TEXT NOT NULL,                            -- '' when it was given back
    fence BIGINT NOT NULL
);

-- Who has it in hand: another instance leaves it alone as long as that one lives. NULL: made by an earlier schema.
ALTER TABLE validation_jobs ADD COLUMN instance TEXT;
ALTER TABLE certificates ADD COLUMN recorded_by TEXT;
