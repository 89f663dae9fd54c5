-- The hours of one day.
delete from public.event_counts_1h where bucket >= $1 and bucket < $2
