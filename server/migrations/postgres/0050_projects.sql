-- As SQLite's 0050.
CREATE TABLE projects (
    name       TEXT PRIMARY KEY,
    created_ms BIGINT NOT NULL
);
INSERT INTO projects VALUES ('default', 0);
ALTER TABLE runs ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE clients ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE tokens ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE audit ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE operators ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE operators DROP CONSTRAINT operators_pkey;
ALTER TABLE operators ADD PRIMARY KEY (project, name);
