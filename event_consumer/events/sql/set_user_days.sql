-- Users' active days: bits that are missing.
update public.user_days as known
set days = known.days | new.days
from unnest($1::text[], $2::text[], $3::text[], $4::int[]) as new (tenant_id, month, user_id, days)
where known.tenant_id = new.tenant_id
  and known.month = new.month::date
  and known.user_id = new.user_id
  and known.days & new.days <> new.days
