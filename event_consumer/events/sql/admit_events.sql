-- Enters the ids into the ledger; returns the places (from 1) of those that were there already. The ids are distinct.
with offered as (
    select event_id, event_time, place
    from unnest($1::uuid[], $2::timestamptz[]) with ordinality as offered (event_id, event_time, place)
), admitted as (
    insert into public.event_ids (event_id, event_time)
    select event_id, event_time from offered order by event_id -- in one order, so that two consumers never wait in a circle
    on conflict do nothing
    returning event_id
)
select offered.place::int
from offered left join admitted using (event_id)
where admitted.event_id is null
