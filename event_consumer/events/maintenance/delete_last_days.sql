-- Users of whose month only this day ($2, a bit) is left. The tenants are found one by one: then the key serves.
with recursive tenants as (
    {tenants}
)
delete from public.user_days as known using tenants
where known.tenant_id = tenants.tenant_id and known.month = $1::text::date and known.days & ~$2::int = 0
