-- What came of each round, for people to look at: nothing is computed from it.
CREATE TABLE rounds (
    run        BLOB NOT NULL,
    round      INTEGER NOT NULL,
    closed_ms  INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    asked      INTEGER NOT NULL,
    accepted   INTEGER NOT NULL,
    examples   INTEGER NOT NULL,
    -- None: nobody reported.
    loss       REAL,
    bytes_up   INTEGER NOT NULL,
    bytes_down INTEGER NOT NULL,
    PRIMARY KEY (run, round)
) WITHOUT ROWID;
