-- What clients tell of a round's snapshot, before they train: losses in units of 2^-16 nats.
CREATE TABLE evaluations (
    run     BYTEA NOT NULL,
    round   BIGINT NOT NULL,
    client  BYTEA NOT NULL,
    targets BIGINT NOT NULL,
    loss    BIGINT NOT NULL,
    PRIMARY KEY (run, round, client)
);
