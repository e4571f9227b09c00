-- The TLS certificate that a client shows: SHA-256 of it, and of whom it is for. None: the next one that it shows.
ALTER TABLE clients ADD COLUMN certificate BLOB;
ALTER TABLE clients ADD COLUMN certified BLOB;
