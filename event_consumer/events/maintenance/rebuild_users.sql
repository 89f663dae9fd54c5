-- The day's users, from the events.
insert into rebuilt_users (tenant_id, user_id, first_at)
select tenant_id, user_id, min("timestamp") from public.events where "timestamp" >= $1 and "timestamp" < $2
group by 1, 2
