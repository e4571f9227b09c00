-- What a client was asked for: in buffered runs that may be an earlier round's snapshot.
ALTER TABLE asked ADD COLUMN round BIGINT NOT NULL DEFAULT 0;
ALTER TABLE asked ADD COLUMN attempt BIGINT NOT NULL DEFAULT 0;
-- Rounds that had closed since the snapshot it was made from; `round` is where it counts.
ALTER TABLE updates ADD COLUMN staleness BIGINT NOT NULL DEFAULT 0;
