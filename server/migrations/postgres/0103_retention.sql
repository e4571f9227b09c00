-- Of each record's two objects: 0 kept, 1 to be removed, 2 removed. What is to be removed is named by nobody any more.
ALTER TABLE records ADD COLUMN snapshot_gone BIGINT NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN state_gone BIGINT NOT NULL DEFAULT 0;
