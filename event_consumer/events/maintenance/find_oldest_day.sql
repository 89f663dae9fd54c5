-- The oldest day (UTC) before $1 that has events or counts; null where there is none.
select (least(
    (select min("timestamp") from public.events where "timestamp" < $1),
    (select min(bucket) from public.event_counts_15m where bucket < $1)
) at time zone 'UTC')::date
