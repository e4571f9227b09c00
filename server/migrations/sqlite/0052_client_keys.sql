-- Keys that a client replaced by another: they are nobody's ever again.
CREATE TABLE former_keys (
    public_key BLOB PRIMARY KEY,
    client     BLOB NOT NULL,
    until_ms   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX former_keys_by_client ON former_keys (client, until_ms);
CREATE UNIQUE INDEX clients_by_key ON clients (public_key);
