-- Where to read on.
select stored.topic, stored.partition, stored.next_offset, stored.slot, stored.cluster_id, stored.last_mark,
       stored.last_record_at
from public.consumer_offsets as stored
join unnest($2::text[], $3::int[]) as wanted (topic, partition) using (topic, partition)
where stored.consumer_group = $1
