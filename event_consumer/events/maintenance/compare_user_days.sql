-- Users whose month says that they had events on this day ($2, a bit) and who had none; and the other way round.
with recursive tenants as (
    {tenants}
), known as (
    select user_days.tenant_id, user_days.user_id from public.user_days join tenants using (tenant_id)
    where month = $1::text::date and days & $2::int <> 0
)
select count(*) filter (where rebuilt.user_id is null) as too_many,
       count(*) filter (where known.user_id is null) as too_few
from known full join rebuilt_users as rebuilt on (known.tenant_id, known.user_id) = (rebuilt.tenant_id, rebuilt.user_id)
