-- How many letters are meant, by what decides what can be done with them.
select reason, count(*) as letters
from public.dead_letters
where ($1::text is null or state = $1)
  and ($2::uuid[] is null or dead_letter_id = any($2))
  and ($3::text is null or reason = $3)
  and ($4::text is null or topic = $4)
  and ($5::text is null or tenant_id = $5)
  and ($6::uuid is null or event_id = $6)
  and ($7::text is null or source = $7)
  and ($8::timestamptz is null or failed_at >= $8)
  and ($9::timestamptz is null or failed_at < $9)
group by reason
order by letters desc, reason
