-- At most $2 days (UTC) before $1 whose counts are in several writers' rows, newest first.
select day::text
from (select distinct day from public.day_versions where day < $1::text::date and slot <> 0) as days
where exists (
    select from public.event_counts_15m
    where bucket >= day::timestamp at time zone 'UTC' and bucket < (day + 1)::timestamp at time zone 'UTC' and slot <> 0
)
order by day desc
limit $2
