-- As SQLite's 0051.
CREATE TABLE rotations (
    seq       BIGINT PRIMARY KEY,
    statement BYTEA NOT NULL
);
