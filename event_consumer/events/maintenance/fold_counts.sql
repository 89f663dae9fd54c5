-- All counts of one day go into slot 0.
with counted as (
    delete from public.event_counts_15m where bucket >= $1 and bucket < $2 and slot <> 0
    returning bucket, tenant_id, event_name, events
)
insert into public.event_counts_15m as known (bucket, tenant_id, event_name, slot, events)
select bucket, tenant_id, event_name, 0, sum(events) from counted group by 1, 2, 3 order by 1, 2, 3
on conflict (bucket, tenant_id, event_name, slot) do update set events = known.events + excluded.events
