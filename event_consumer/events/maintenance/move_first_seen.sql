-- Never to a later time: the event that was the first may have been dropped.
insert into public.first_seen as known (tenant_id, user_id, first_seen_at)
select tenant_id, user_id, first_seen_at from rebuilt_first_seen order by 1, 2
on conflict (tenant_id, user_id) do update set first_seen_at = excluded.first_seen_at
where known.first_seen_at > excluded.first_seen_at
