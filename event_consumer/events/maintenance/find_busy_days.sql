-- Days (UTC) from $2 on with at least $1 rows in the default partition, newest first.
select ("timestamp" at time zone 'UTC')::date as day
from public.events_default
where "timestamp" >= $2
group by 1
having count(*) >= $1
order by 1 desc
limit 50
