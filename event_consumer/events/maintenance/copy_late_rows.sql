-- Copies what came since the first copy.
insert into public.{partition}
select late.* from public.events_default as late
where late."timestamp" >= $1 and late."timestamp" < $2
  and not exists (
      select from public.{partition} as copied
      where copied."timestamp" = late."timestamp" and copied.event_id = late.event_id
  )
