-- What became of the records up to each offset, in the transaction that moved it.
update public.consumer_offsets as counted
set stored = counted.stored + told.stored,
    duplicates = counted.duplicates + told.duplicates,
    dead_letters = counted.dead_letters + told.dead_letters,
    skipped = counted.skipped + told.skipped,
    last_received_at = greatest(counted.last_received_at, told.last_received_at)
from unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::timestamptz[])
    as told (topic, partition, stored, duplicates, dead_letters, skipped, last_received_at)
where counted.consumer_group = $1
  and counted.topic = told.topic
  and counted.partition = told.partition
