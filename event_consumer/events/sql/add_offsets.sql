-- Makes the rows of partitions that were never consumed, at offset 0.
insert into public.consumer_offsets (consumer_group, topic, partition, next_offset)
select $1, topic, partition, 0
from unnest($2::text[], $3::int[]) as wanted (topic, partition)
on conflict do nothing
