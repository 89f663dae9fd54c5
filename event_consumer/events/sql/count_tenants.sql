-- What came in for each tenant today; the tenants are distinct and in order.
insert into public.tenant_intake as known (tenant_id, day, slot, stored, duplicates, dead_letters)
select tenant_id, current_date, $5, stored, duplicates, dead_letters
from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) as new (tenant_id, stored, duplicates, dead_letters)
on conflict (tenant_id, day, slot) do update
set stored = known.stored + excluded.stored,
    duplicates = known.duplicates + excluded.duplicates,
    dead_letters = known.dead_letters + excluded.dead_letters
