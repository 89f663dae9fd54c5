-- Waits until no transaction feeds the rollups, and keeps new ones out until this one ends.
select pg_advisory_xact_lock($1)
