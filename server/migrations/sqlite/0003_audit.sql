-- The audit log: each hash is over the one before and its own entry.
CREATE TABLE audit (
    seq   INTEGER PRIMARY KEY,
    entry BLOB NOT NULL,
    hash  BLOB NOT NULL
);

-- Hashes of the log that the server signed: whoever has the database but not the key cannot make
-- the log anew.
CREATE TABLE audit_checkpoints (
    seq       INTEGER PRIMARY KEY,
    hash      BLOB NOT NULL,
    signature BLOB NOT NULL
);
