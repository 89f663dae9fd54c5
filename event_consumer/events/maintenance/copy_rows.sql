-- Copies what the default partition holds of the partition's time; readers and writers go on.
insert into public.{partition}
select * from public.events_default where "timestamp" >= $1 and "timestamp" < $2
