-- This day ($2, a bit) of users who had no events on it.
with recursive tenants as (
    {tenants}
)
update public.user_days as known set days = known.days & ~$2::int
from tenants
where known.tenant_id = tenants.tenant_id and known.month = $1::text::date and known.days & $2 <> 0
  and not exists (
      select from rebuilt_users as rebuilt where rebuilt.tenant_id = known.tenant_id and rebuilt.user_id = known.user_id
  )
