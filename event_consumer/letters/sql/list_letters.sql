-- A page of letters, the latest first. $1 … $9: selection.py; $10, $11: the last letter of the page before.
select dead_letter_id, topic, partition, "offset", reason, error, source, stage, event_id, tenant_id, stub, state, state_at,
       retry_count, failed_at, relayed_at, note, octet_length(value) as bytes
from public.dead_letters
where ($1::text is null or state = $1)
  and ($2::uuid[] is null or dead_letter_id = any($2))
  and ($3::text is null or reason = $3)
  and ($4::text is null or topic = $4)
  and ($5::text is null or tenant_id = $5)
  and ($6::uuid is null or event_id = $6)
  and ($7::text is null or source = $7)
  and ($8::timestamptz is null or failed_at >= $8)
  and ($9::timestamptz is null or failed_at < $9)
  and ($10::timestamptz is null or (failed_at, dead_letter_id) < ($10, $11::uuid))
order by failed_at desc, dead_letter_id desc
limit $12
