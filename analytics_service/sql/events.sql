-- One page of events: range, filters, whether newest first, the last event of the page before (or nulls), how many events and bytes at most.
select event_id, tenant_id, user_id, event_name, "timestamp", received_at, processed_at, source, experiment_id, variant, metadata, context
from analytics.list_events($1, $2, $3::text::jsonb, $4, $5, $6, $7, $8)
