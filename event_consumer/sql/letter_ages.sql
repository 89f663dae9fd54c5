-- Seconds since the oldest open dead letter was set aside (0 where none is open), and how many are not on the topic yet.
select coalesce(
           (select greatest(0, extract(epoch from now() - min(failed_at))) from public.dead_letters where state = 'open'), 0
       )::float8,
       (select count(*) from public.dead_letters where relayed_at is null)
