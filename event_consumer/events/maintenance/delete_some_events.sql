-- At most $3 events of a day that has no partition of its own.
delete from public.events
where ("timestamp", event_id) in (
    select "timestamp", event_id from public.events
    where "timestamp" >= $1 and "timestamp" < $2
    order by "timestamp", event_id
    limit $3
)
and "timestamp" >= $1 and "timestamp" < $2
