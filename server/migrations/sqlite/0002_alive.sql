-- When the serving process was last there: not flushed, good to a second or so.
CREATE TABLE alive (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    at_ms INTEGER NOT NULL
);
