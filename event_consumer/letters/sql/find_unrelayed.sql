-- The oldest letters that the topic does not have yet, about $2 bytes of them at most, locked against other relays.
with waiting as (
    select dead_letter_id, failed_at, coalesce(octet_length(value), 0) as bytes
    from public.dead_letters
    where relayed_at is null and dead_letter_id <> all($3::uuid[])
    order by failed_at
    limit $1
    for update skip locked
),
counted as (
    select dead_letter_id, sum(bytes) over (order by failed_at, dead_letter_id) - bytes as before
    from waiting
)
select letter.dead_letter_id, letter.topic, letter.partition, letter."offset", letter.key, letter.value, letter.headers,
       letter.reason, letter.error, letter.source, letter.stage, letter.stub, letter.retry_count, letter.failed_at
from counted
join public.dead_letters as letter using (dead_letter_id)
where counted.before < $2
order by letter.failed_at, letter.dead_letter_id
