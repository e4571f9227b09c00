-- What clients tell of a round's snapshot, before they train: losses in units of 2^-16 nats.
CREATE TABLE evaluations (
    run     BLOB NOT NULL,
    round   INTEGER NOT NULL,
    client  BLOB NOT NULL,
    targets INTEGER NOT NULL,
    loss    INTEGER NOT NULL,
    PRIMARY KEY (run, round, client)
) WITHOUT ROWID;
