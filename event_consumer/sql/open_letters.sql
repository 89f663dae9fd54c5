-- How many dead letters are open, by reason.
select reason, count(*) from public.dead_letters where state = 'open' group by reason
