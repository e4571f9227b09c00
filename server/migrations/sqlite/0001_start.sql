-- One-time enrolment tokens, hashed.
CREATE TABLE tokens (
    hash       BLOB PRIMARY KEY,
    expires_ms INTEGER NOT NULL,
    client     BLOB
) WITHOUT ROWID;

CREATE TABLE clients (
    id         BLOB PRIMARY KEY,
    public_key BLOB NOT NULL
) WITHOUT ROWID;

-- Nonces of signed requests, until these expire.
CREATE TABLE nonces (
    client     BLOB NOT NULL,
    nonce      BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (client, nonce)
) WITHOUT ROWID;
CREATE INDEX nonces_by_expiry ON nonces (expires_ms);

CREATE TABLE runs (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          BLOB NOT NULL UNIQUE,
    manifest    BLOB NOT NULL,
    signature   BLOB NOT NULL,
    -- The base model's linears as JSON, where known: FFA-LoRA's export needs them.
    linears     BLOB,
    status      TEXT NOT NULL CHECK (status IN ('running', 'paused', 'complete', 'aborted')),
    note        TEXT NOT NULL DEFAULT '',
    round       INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    -- None while no attempt is open.
    deadline_ms INTEGER
);

-- The chain of records; the snapshots and states they name are objects.
CREATE TABLE records (
    run       BLOB NOT NULL,
    round     INTEGER NOT NULL,
    bytes     BLOB NOT NULL,
    signature BLOB NOT NULL,
    snapshot  BLOB NOT NULL,
    state     BLOB NOT NULL,
    PRIMARY KEY (run, round)
) WITHOUT ROWID;
CREATE INDEX records_by_snapshot ON records (run, snapshot);

-- Who was asked in the attempt that is open.
CREATE TABLE asked (
    run    BLOB NOT NULL,
    client BLOB NOT NULL,
    PRIMARY KEY (run, client)
) WITHOUT ROWID;

-- Every accepted update: at most one a client and round.
CREATE TABLE updates (
    run       BLOB NOT NULL,
    round     INTEGER NOT NULL,
    client    BLOB NOT NULL,
    attempt   INTEGER NOT NULL,
    frame     BLOB NOT NULL,
    receipt   BLOB NOT NULL,
    signature BLOB NOT NULL,
    -- Whether the frame is still stored; it is dropped once counted.
    kept      INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (run, round, client)
) WITHOUT ROWID;
