-- As SQLite's 0053.
ALTER TABLE clients ADD COLUMN certificate BYTEA;
ALTER TABLE clients ADD COLUMN certified BYTEA;
