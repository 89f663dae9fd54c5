-- Adds letters, each a microsecond after the one before it, so that a replay keeps their order. An id that is there already is left as it is; what comes back was added.
insert into public.dead_letters (
    dead_letter_id, topic, partition, "offset", message_at, key, value, headers, reason, error, source, stage, event_id,
    tenant_id, stub, retry_count, failed_at, relayed_at
)
select dead_letter_id, topic, partition, "offset", message_at, key, value, headers, reason, error, source, stage, event_id,
       tenant_id, stub, retry_count, coalesce(failed_at, now() + place * interval '1 microsecond'), case when on_topic then now() end
from unnest(
    $1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::timestamptz[], $6::bytea[], $7::bytea[], $8::jsonb[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::uuid[], $14::text[], $15::boolean[], $16::int[], $17::timestamptz[],
    $18::boolean[], $19::int[]
) as given (
    dead_letter_id, topic, partition, "offset", message_at, key, value, headers, reason, error, source, stage, event_id,
    tenant_id, stub, retry_count, failed_at, on_topic, place
)
on conflict (dead_letter_id) do nothing
returning dead_letter_id
