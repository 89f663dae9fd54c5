-- Letters whose replay failed again: open, with what is wrong now. They are relayed anew.
update public.dead_letters as letter
set topic = given.topic, partition = given.partition, "offset" = given."offset", message_at = given.message_at,
    key = given.key, value = given.value, headers = given.headers, reason = given.reason, error = given.error,
    source = given.source, stage = given.stage, event_id = given.event_id, tenant_id = given.tenant_id,
    stub = given.stub, retry_count = given.retry_count, failed_at = coalesce(given.failed_at, now() + given.place * interval '1 microsecond'),
    relayed_at = case when given.on_topic then now() end, state = 'open', state_at = now()
from unnest(
    $1::uuid[], $2::text[], $3::int[], $4::bigint[], $5::timestamptz[], $6::bytea[], $7::bytea[], $8::jsonb[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::uuid[], $14::text[], $15::boolean[], $16::int[], $17::timestamptz[],
    $18::boolean[], $19::int[]
) as given (
    dead_letter_id, topic, partition, "offset", message_at, key, value, headers, reason, error, source, stage, event_id,
    tenant_id, stub, retry_count, failed_at, on_topic, place
)
where letter.dead_letter_id = given.dead_letter_id
