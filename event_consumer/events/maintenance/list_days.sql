-- The days (UTC) from $1 to before $2 that have events, or rollups that say so.
with recursive firsts as (
    select min("timestamp") as at from public.events where "timestamp" >= $1 and "timestamp" < $2
    union all
    select (
        select min("timestamp") from public.events
        where "timestamp" >= date_trunc('day', firsts.at, 'UTC') + interval '1 day' and "timestamp" < $2
    )
    from firsts where firsts.at is not null
), months as (
    select month, bit_or(days) as days from public.user_days where isfinite(month) group by month
), known as (
    select (at at time zone 'UTC')::date as day from firsts where at is not null
    union
    select (bucket at time zone 'UTC')::date from public.event_counts_15m where bucket >= $1 and bucket < $2
    union
    select month + number from months cross join generate_series(0, 30) as number
    where days & (1 << number) <> 0
      and (month + number)::timestamp at time zone 'UTC' >= $1 and (month + number)::timestamp at time zone 'UTC' < $2
)
select day from known order by day
