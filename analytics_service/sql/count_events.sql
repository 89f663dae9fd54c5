-- Events in [$1, $2), of one name ($3) and user ($4) where given.
select count(*)
from public.events
where "timestamp" >= $1
  and "timestamp" < $2
  and ($3::text is null or event_name = $3)
  and ($4::text is null or user_id = $4)
