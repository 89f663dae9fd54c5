-- The counts made anew.
insert into public.event_counts_15m (bucket, tenant_id, event_name, slot, events)
select bucket, tenant_id, event_name, 0, events from rebuilt_counts order by 1, 2, 3
