-- Names for published adapters; `canary` 1: what a share of the clients is given in its place.
CREATE TABLE tags (
    project  TEXT NOT NULL,
    tag      TEXT NOT NULL,
    canary   INTEGER NOT NULL CHECK (canary IN (0, 1)),
    run      BLOB NOT NULL,
    round    INTEGER NOT NULL,
    permille INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    PRIMARY KEY (project, tag, canary)
) WITHOUT ROWID;
