-- The tenants of user_days, one step in its index each: a statement about one month then reads no other.
(select tenant_id from public.user_days order by tenant_id limit 1)
union all
select (select known.tenant_id from public.user_days as known
        where known.tenant_id > tenants.tenant_id order by known.tenant_id limit 1)
from tenants where tenants.tenant_id is not null
