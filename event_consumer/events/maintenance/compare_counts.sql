-- How the day's counts, summed over slots, differ from the events, and whether some are not in slot 0 or the hours are not its sum.
with known as (
    select bucket, tenant_id, event_name, sum(events) as events
    from public.event_counts_15m where bucket >= $1 and bucket < $2
    group by 1, 2, 3
), compared as (
    select coalesce(known.events, 0) as had, coalesce(rebuilt.events, 0) as has
    from known full join rebuilt_counts as rebuilt using (bucket, tenant_id, event_name)
)
select count(*) filter (where had <> has) as rows,
       coalesce(sum(had - has) filter (where had > has), 0)::bigint as too_many,
       coalesce(sum(has - had) filter (where has > had), 0)::bigint as too_few,
       exists (select from public.event_counts_15m where bucket >= $1 and bucket < $2 and slot <> 0)
       or exists (
           select from (
               select date_bin('1 hour', bucket, timestamptz '2000-01-01 00:00+00') as bucket, tenant_id, event_name, sum(events) as events
               from public.event_counts_15m where bucket >= $1 and bucket < $2 and slot = 0 group by 1, 2, 3
           ) as added
           full join (select * from public.event_counts_1h where bucket >= $1 and bucket < $2) as hours using (bucket, tenant_id, event_name)
           where added.events is distinct from hours.events
       ) as untidy
from compared
