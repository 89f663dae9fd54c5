-- The places (from 1) of events that differ from what is stored under their id, in what the client sent: not in when it came,
-- nor in what the platform noted. Of an event that retention has dropped only the time is known: another time that the client gave is a difference.
with offered as (
    select *, {sent_time} as sent_time
    from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::jsonb[],
        $9::text[], $10::text[], $11::text[]
    ) with ordinality as offered (
        event_id, user_id, event_name, metadata, "timestamp", received_at, tenant_id, context, experiment_id, variant, source, place
    )
)
select offered.place::int
from offered
join public.event_ids as known using (event_id)
left join lateral (
    select *, {sent_time} as sent_time
    from public.events
    where "timestamp" = known.event_time and event_id = offered.event_id
    limit 1
) as stored on true
where case
    when stored.event_id is null then offered."timestamp" <> known.event_time and offered.sent_time is not null
    else (
        stored.user_id, stored.event_name, stored.metadata, stored.sent_time, stored.tenant_id, stored.context - '_platform',
        stored.experiment_id, stored.variant, stored.source
    ) is distinct from (
        offered.user_id, offered.event_name, offered.metadata, offered.sent_time, offered.tenant_id, offered.context - '_platform',
        offered.experiment_id, offered.variant, offered.source
    )
end
order by 1
