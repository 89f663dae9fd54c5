-- The newest events since a time, of all or (not null) of each of these tenants.
select event_id, tenant_id, user_id, event_name, "timestamp", received_at, processed_at, source, experiment_id, variant
from analytics.newest_events($1, $2, $3)
