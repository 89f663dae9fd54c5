-- How many letters are meant, by what decides what can be done with them.
select reason, count(*) as letters
from public.dead_letters
where {selected}
group by reason
order by letters desc, reason
