-- Users who were never seen.
insert into public.first_seen (tenant_id, user_id, first_seen_at)
select * from unnest($1::text[], $2::text[], $3::timestamptz[])
on conflict do nothing
