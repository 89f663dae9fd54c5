-- Takes back what was copied and has been deleted since, so that nothing purged comes back.
delete from public.{partition} as copied
where not exists (
    select from public.events_default as known
    where known."timestamp" = copied."timestamp" and known.event_id = copied.event_id
)
