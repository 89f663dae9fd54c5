-- The counts of one day.
delete from public.event_counts_15m where bucket >= $1 and bucket < $2
