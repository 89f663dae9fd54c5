-- The fence: moves each offset from the value this consumer built on; a partition that comes back was moved by nobody else.
update public.consumer_offsets as stored
set next_offset = moved.next_offset, updated_at = now()
from unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) as moved (topic, partition, expected, next_offset)
where stored.consumer_group = $1
  and stored.topic = moved.topic
  and stored.partition = moved.partition
  and stored.next_offset = moved.expected
returning stored.topic, stored.partition
