-- Who may use the admin API; tokens hashed. Whoever is revoked has no row.
CREATE TABLE operators (
    name       TEXT PRIMARY KEY,
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    hash       BLOB NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    -- None: never.
    expires_ms INTEGER
);

-- An enrolment token is good for so many clients.
ALTER TABLE tokens ADD COLUMN quota INTEGER NOT NULL DEFAULT 1;
CREATE TABLE token_uses (
    hash   BLOB NOT NULL,
    client BLOB NOT NULL,
    PRIMARY KEY (hash, client)
) WITHOUT ROWID;
INSERT INTO token_uses SELECT hash, client FROM tokens WHERE client IS NOT NULL;
ALTER TABLE tokens DROP COLUMN client;

-- None: enrolled before this was noted.
ALTER TABLE clients ADD COLUMN enrolled_ms INTEGER;
-- For good. In order, so that a process that serves finds what another added.
CREATE TABLE revocations (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    client BLOB NOT NULL UNIQUE,
    at_ms  INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX updates_by_client ON updates (client);
