-- All events of a range that the filters let through, in order: for a cursor, which reads no more than what is fetched. list_events()
-- would gather all of them before the first is given.
select event_id, tenant_id, user_id, event_name, "timestamp", received_at, processed_at, source, experiment_id, variant, metadata, context
from analytics.matching($1, $2, $3::text::jsonb)
order by "timestamp", event_id
