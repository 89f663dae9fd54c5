-- The day's counts, from the events.
insert into rebuilt_counts (bucket, tenant_id, event_name, events)
select date_bin('15 minutes', "timestamp", timestamptz '2000-01-01 00:00+00'), tenant_id, event_name, count(*)
from public.events where "timestamp" >= $1 and "timestamp" < $2
group by 1, 2, 3
