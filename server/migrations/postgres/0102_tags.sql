-- Names for published adapters; `canary` 1: what a share of the clients is given in its place.
CREATE TABLE tags (
    project  TEXT NOT NULL,
    tag      TEXT NOT NULL,
    canary   BIGINT NOT NULL CHECK (canary IN (0, 1)),
    run      BYTEA NOT NULL,
    round    BIGINT NOT NULL,
    permille BIGINT NOT NULL,
    at_ms    BIGINT NOT NULL,
    PRIMARY KEY (project, tag, canary)
);
