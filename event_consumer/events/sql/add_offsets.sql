-- Makes the rows of partitions that were never read, at the offset where each log begins.
insert into public.consumer_offsets (consumer_group, topic, partition, next_offset, cluster_id)
select $1, topic, partition, next_offset, $5
from unnest($2::text[], $3::int[], $4::bigint[]) as wanted (topic, partition, next_offset)
on conflict do nothing
