-- The letters to replay now, locked: those that somebody else is working on are left out, and those that changed since $3.
select dead_letter_id, topic, partition, "offset", key, value, headers, reason, source, stage, event_id, stub, state,
       retry_count
from public.dead_letters
where dead_letter_id = any($1::uuid[]) and ($2::text is null or state = $2) and state_at < $3
order by failed_at, dead_letter_id
for update skip locked
