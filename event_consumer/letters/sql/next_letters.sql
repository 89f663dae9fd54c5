-- The next letters to work on, the earliest first, none that changed since $13 (the work's begin). $1 … $9: selection.py;
-- $10, $11: the last letter before.
select dead_letter_id, failed_at, partition, stage, coalesce(octet_length(value), 0) as bytes
from public.dead_letters
where {selected}
  and ($10::timestamptz is null or (failed_at, dead_letter_id) > ($10, $11::uuid))
  and state_at < $13
order by failed_at, dead_letter_id
limit $12
