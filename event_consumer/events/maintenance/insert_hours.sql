-- The hours of one day, from its quarters that are folded.
insert into public.event_counts_1h (bucket, tenant_id, event_name, events)
select date_bin('1 hour', bucket, timestamptz '2000-01-01 00:00+00'), tenant_id, event_name, sum(events)
from public.event_counts_15m where bucket >= $1 and bucket < $2 and slot = 0
group by 1, 2, 3 order by 1, 2, 3
