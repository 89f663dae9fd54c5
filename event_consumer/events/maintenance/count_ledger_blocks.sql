-- How many blocks the ledger has.
select pg_relation_size('public.event_ids') / current_setting('block_size')::bigint
