-- Users of whose month no day is left.
with recursive tenants as (
    {tenants}
)
delete from public.user_days as known using tenants
where known.tenant_id = tenants.tenant_id and known.month = $1::text::date and known.days = 0
