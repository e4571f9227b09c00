-- Statements that one of the server's keys follows another, in order: JSON, signed by both.
CREATE TABLE rotations (
    seq       INTEGER PRIMARY KEY,
    statement BLOB NOT NULL
);
