-- Users' active days: rows that are missing. (DO UPDATE would lock and log unchanged rows too.)
insert into public.user_days (tenant_id, month, user_id, days)
select tenant_id, month::date, user_id, days
from unnest($1::text[], $2::text[], $3::text[], $4::int[]) as new (tenant_id, month, user_id, days)
on conflict do nothing
