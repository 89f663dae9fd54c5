-- What was copied leaves the default partition.
delete from public.events_default where "timestamp" >= $1 and "timestamp" < $2
