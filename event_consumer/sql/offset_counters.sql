-- What became of the records of each partition that a group has read, and how many of them nothing became of.
select topic, partition, consumed - stored - duplicates - dead_letters - skipped, skipped
from public.consumer_offsets
where consumer_group = $1
order by topic, partition
