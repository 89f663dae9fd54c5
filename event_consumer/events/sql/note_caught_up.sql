-- Notes up to when all that Kafka held of each partition is stored, where the stored offset is still the one that was compared.
-- What a batch is writing to is left out, so that neither waits for the other; updated_at tells of offsets only.
with free as (
    select noted.topic, noted.partition, seen.caught_up_at
    from public.consumer_offsets as noted
    join unnest($2::text[], $3::int[], $4::bigint[], $5::timestamptz[]) as seen (topic, partition, next_offset, caught_up_at)
        using (topic, partition, next_offset)
    where noted.consumer_group = $1
    order by noted.topic, noted.partition
    for no key update of noted skip locked
)
update public.consumer_offsets as noted
set caught_up_at = greatest(noted.caught_up_at, free.caught_up_at)
from free
where noted.consumer_group = $1
  and noted.topic = free.topic
  and noted.partition = free.partition
returning noted.topic, noted.partition
