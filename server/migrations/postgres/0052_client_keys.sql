-- As SQLite's 0052.
CREATE TABLE former_keys (
    public_key BYTEA PRIMARY KEY,
    client     BYTEA NOT NULL,
    until_ms   BIGINT NOT NULL
);
CREATE INDEX former_keys_by_client ON former_keys (client, until_ms);
CREATE UNIQUE INDEX clients_by_key ON clients (public_key);
