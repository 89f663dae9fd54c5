-- How the day's counts, summed over slots, differ from the events, and whether all of them are in slot 0.
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
       exists (select from public.event_counts_15m where bucket >= $1 and bucket < $2 and slot <> 0) as in_slots
from compared
