-- The fence: moves each offset from the value this consumer built on; a partition that comes back was moved by nobody else.
with mine as (
    -- Locked in one order, so that two consumers who both believe to own them never wait for each other in a circle.
    select stored.topic, stored.partition, moved.next_offset, moved.expected, moved.cluster_id, moved.last_mark, moved.last_record_at
    from public.consumer_offsets as stored
    join unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::timestamptz[])
        as moved (topic, partition, expected, next_offset, cluster_id, last_mark, last_record_at)
        using (topic, partition)
    where stored.consumer_group = $1
    order by stored.topic, stored.partition
    for update of stored
)
update public.consumer_offsets as stored
set next_offset = mine.next_offset,
    consumed = stored.consumed + mine.next_offset - mine.expected,
    cluster_id = mine.cluster_id,
    last_mark = mine.last_mark,
    last_record_at = mine.last_record_at,
    updated_at = now()
from mine
where stored.consumer_group = $1
  and stored.topic = mine.topic
  and stored.partition = mine.partition
  and stored.next_offset = mine.expected
returning stored.topic, stored.partition, stored.slot, (select epoch from public.rollup_epoch) as epoch
