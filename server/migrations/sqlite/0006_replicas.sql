-- Counted up by every step of a run: whoever holds an older one reads what came since.
ALTER TABLE runs ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
-- 1: the accepted set of the round that is on is final.
ALTER TABLE runs ADD COLUMN frozen INTEGER NOT NULL DEFAULT 0;
-- The step that added the row.
ALTER TABLE asked ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE updates ADD COLUMN version INTEGER NOT NULL DEFAULT 0;

-- The audit entry that tells of it, so that another process finds who is new.
ALTER TABLE clients ADD COLUMN entry INTEGER;
CREATE INDEX clients_by_entry ON clients (entry);

-- Whose store this is: replicas of another key are turned away.
CREATE TABLE identity (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    public_key BLOB NOT NULL
);

-- Parts of a frozen round's accepted set, by client: summed by whoever holds the lease.
CREATE TABLE folds (
    run      BLOB NOT NULL,
    round    INTEGER NOT NULL,
    part     INTEGER NOT NULL,
    -- Of the accepted set in order of clients.
    start    INTEGER NOT NULL,
    length   INTEGER NOT NULL,
    lease    BLOB,
    until_ms INTEGER NOT NULL DEFAULT 0,
    -- The partial sum, an object.
    partial  BLOB,
    PRIMARY KEY (run, round, part)
) WITHOUT ROWID;
