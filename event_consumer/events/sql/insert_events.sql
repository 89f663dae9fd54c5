-- Stores the batch's rows; an event_id that is there already, or twice in the batch, is left as it was first.
insert into public.events (
    event_id, user_id, event_name, metadata, "timestamp", received_at, tenant_id, context, experiment_id, variant, source
)
select *
from unnest(
    $1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::jsonb[],
    $9::text[], $10::text[], $11::text[]
)
on conflict (event_id) do nothing
