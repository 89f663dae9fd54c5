-- Adds to the counts of quarters of an hour; the keys are distinct and in order.
insert into public.event_counts_15m as counted (bucket, tenant_id, event_name, slot, events)
select bucket, tenant_id, event_name, $5, events
from unnest($1::timestamptz[], $2::text[], $3::text[], $4::bigint[]) as new (bucket, tenant_id, event_name, events)
on conflict (bucket, tenant_id, event_name, slot) do update set events = counted.events + excluded.events
