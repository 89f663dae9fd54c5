-- Users of whose month no day is left.
with recursive tenants as (
    (select tenant_id from public.user_days order by tenant_id limit 1)
    union all
    select (select known.tenant_id from public.user_days as known
            where known.tenant_id > tenants.tenant_id order by known.tenant_id limit 1)
    from tenants where tenants.tenant_id is not null
)
delete from public.user_days as known using tenants
where known.tenant_id = tenants.tenant_id and known.month = $1::text::date and known.days = 0
