-- One day ($2, a bit) of all users of a month.
with recursive tenants as (
    {tenants}
)
update public.user_days as known set days = known.days & ~$2::int
from tenants
where known.tenant_id = tenants.tenant_id and known.month = $1::text::date and known.days & $2 <> 0
