-- A page of letters, the latest first. $1 … $9: selection.py; $10, $11: the last letter of the page before.
select dead_letter_id, topic, partition, "offset", reason, error, source, stage, event_id, tenant_id, stub, state, state_at,
       retry_count, failed_at, relayed_at, note, octet_length(value) as bytes
from public.dead_letters
where {selected}
  and ($10::timestamptz is null or (failed_at, dead_letter_id) < ($10, $11::uuid))
order by failed_at desc, dead_letter_id desc
limit $12
