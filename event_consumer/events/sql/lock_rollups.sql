-- Shared by all who feed the rollups, for the transaction; whoever remakes their rows waits for them, and they for him.
select pg_advisory_xact_lock_shared($1)
