-- Where a group reads on, of each partition it ever read.
select topic, partition, next_offset, slot, cluster_id, last_mark, last_record_at
from public.consumer_offsets
where consumer_group = $1
order by topic, partition
