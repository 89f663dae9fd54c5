-- Those of the day's users of whom first_seen says nothing or a later time, with the time of their earliest event there is. Left out is
-- who had events between $1, where the rebuilding began, and the day's beginning, $2: that day had them.
with late as materialized (
    select users.tenant_id, users.user_id
    from rebuilt_users as users
    left join public.first_seen as known using (tenant_id, user_id)
    where known.first_seen_at is null or known.first_seen_at > users.first_at
)
insert into rebuilt_first_seen (tenant_id, user_id, first_seen_at)
select late.tenant_id, late.user_id, earliest.at
from late
cross join lateral (
    select min("timestamp") as at from public.events
    where events.user_id = late.user_id and events.tenant_id = late.tenant_id
) as earliest
where not (earliest.at >= $1 and earliest.at < $2)
