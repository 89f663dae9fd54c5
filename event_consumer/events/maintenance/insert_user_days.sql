-- This day ($2, a bit) of users who had events on it.
insert into public.user_days as known (tenant_id, month, user_id, days)
select tenant_id, $1::text::date, user_id, $2::int from rebuilt_users order by tenant_id, user_id
on conflict (tenant_id, month, user_id) do update set days = known.days | excluded.days
where known.days & excluded.days = 0
