-- The next letters to work on, the earliest first, none that changed since $13 (the work's begin). $1 … $9: selection.py;
-- $10, $11: the last letter before.
select dead_letter_id, failed_at, partition, stage, coalesce(octet_length(value), 0) as bytes
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
  and ($10::timestamptz is null or (failed_at, dead_letter_id) > ($10, $11::uuid))
  and state_at < $13
order by failed_at, dead_letter_id
limit $12
