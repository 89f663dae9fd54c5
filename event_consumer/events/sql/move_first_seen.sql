-- Users who turn out to have been there earlier.
update public.first_seen as known
set first_seen_at = new.first_seen_at
from unnest($1::text[], $2::text[], $3::timestamptz[]) as new (tenant_id, user_id, first_seen_at)
where known.tenant_id = new.tenant_id
  and known.user_id = new.user_id
  and known.first_seen_at > new.first_seen_at
