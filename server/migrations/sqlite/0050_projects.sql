-- Whose a run, a client, a token or an operator is. All that there was is the default project's.
CREATE TABLE projects (
    name       TEXT PRIMARY KEY,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO projects VALUES ('default', 0);
ALTER TABLE runs ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE clients ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE tokens ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
-- '': the server's own.
ALTER TABLE audit ADD COLUMN project TEXT NOT NULL DEFAULT '';

-- A name is one project's; those of project '' see all projects.
CREATE TABLE operators_by_project (
    project    TEXT NOT NULL DEFAULT '',
    name       TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    hash       BLOB NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    PRIMARY KEY (project, name)
);
INSERT INTO operators_by_project (name, role, hash, created_ms, expires_ms)
    SELECT name, role, hash, created_ms, expires_ms FROM operators;
DROP TABLE operators;
ALTER TABLE operators_by_project RENAME TO operators;
