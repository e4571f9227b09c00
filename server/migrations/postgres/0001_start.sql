-- As SQLite's, in Postgres's words: what its migrations come to, 0001 to 0006.

CREATE TABLE tokens (
    hash       BYTEA PRIMARY KEY,
    expires_ms BIGINT NOT NULL,
    quota      BIGINT NOT NULL DEFAULT 1
);
CREATE TABLE token_uses (
    hash   BYTEA NOT NULL,
    client BYTEA NOT NULL,
    PRIMARY KEY (hash, client)
);

CREATE TABLE clients (
    id          BYTEA PRIMARY KEY,
    public_key  BYTEA NOT NULL,
    enrolled_ms BIGINT,
    entry       BIGINT
);
CREATE INDEX clients_by_entry ON clients (entry);
CREATE TABLE revocations (
    seq    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client BYTEA NOT NULL UNIQUE,
    at_ms  BIGINT NOT NULL,
    reason TEXT NOT NULL
);

CREATE TABLE nonces (
    client     BYTEA NOT NULL,
    nonce      BYTEA NOT NULL,
    expires_ms BIGINT NOT NULL,
    PRIMARY KEY (client, nonce)
);
CREATE INDEX nonces_by_expiry ON nonces (expires_ms);

CREATE TABLE operators (
    name       TEXT PRIMARY KEY,
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    hash       BYTEA NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT
);

CREATE TABLE runs (
    seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          BYTEA NOT NULL UNIQUE,
    manifest    BYTEA NOT NULL,
    signature   BYTEA NOT NULL,
    linears     BYTEA,
    status      TEXT NOT NULL CHECK (status IN ('running', 'paused', 'complete', 'aborted')),
    note        TEXT NOT NULL DEFAULT '',
    round       BIGINT NOT NULL,
    attempt     BIGINT NOT NULL,
    deadline_ms BIGINT,
    version     BIGINT NOT NULL DEFAULT 0,
    frozen      BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE records (
    run       BYTEA NOT NULL,
    round     BIGINT NOT NULL,
    bytes     BYTEA NOT NULL,
    signature BYTEA NOT NULL,
    snapshot  BYTEA NOT NULL,
    state     BYTEA NOT NULL,
    PRIMARY KEY (run, round)
);
CREATE INDEX records_by_snapshot ON records (run, snapshot);

CREATE TABLE rounds (
    run        BYTEA NOT NULL,
    round      BIGINT NOT NULL,
    closed_ms  BIGINT NOT NULL,
    attempt    BIGINT NOT NULL,
    asked      BIGINT NOT NULL,
    accepted   BIGINT NOT NULL,
    examples   BIGINT NOT NULL,
    loss       DOUBLE PRECISION,
    bytes_up   BIGINT NOT NULL,
    bytes_down BIGINT NOT NULL,
    PRIMARY KEY (run, round)
);

CREATE TABLE asked (
    run     BYTEA NOT NULL,
    client  BYTEA NOT NULL,
    version BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (run, client)
);
CREATE INDEX asked_by_version ON asked (run, version);

CREATE TABLE updates (
    run       BYTEA NOT NULL,
    round     BIGINT NOT NULL,
    client    BYTEA NOT NULL,
    attempt   BIGINT NOT NULL,
    frame     BYTEA NOT NULL,
    receipt   BYTEA NOT NULL,
    signature BYTEA NOT NULL,
    kept      BIGINT NOT NULL DEFAULT 1,
    version   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (run, round, client)
);
CREATE INDEX updates_by_client ON updates (client);
CREATE INDEX updates_by_version ON updates (run, round, version);

CREATE TABLE folds (
    run      BYTEA NOT NULL,
    round    BIGINT NOT NULL,
    part     BIGINT NOT NULL,
    start    BIGINT NOT NULL,
    length   BIGINT NOT NULL,
    lease    BYTEA,
    until_ms BIGINT NOT NULL DEFAULT 0,
    partial  BYTEA,
    PRIMARY KEY (run, round, part)
);

CREATE TABLE alive (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    at_ms BIGINT NOT NULL
);
CREATE TABLE identity (
    one        BIGINT PRIMARY KEY CHECK (one = 1),
    public_key BYTEA NOT NULL
);

CREATE TABLE audit (
    seq   BIGINT PRIMARY KEY,
    entry BYTEA NOT NULL,
    hash  BYTEA NOT NULL
);
CREATE TABLE audit_checkpoints (
    seq       BIGINT PRIMARY KEY,
    hash      BYTEA NOT NULL,
    signature BYTEA NOT NULL
);
