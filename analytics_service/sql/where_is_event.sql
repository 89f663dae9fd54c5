-- What became of the event of this id.
select state, event_id, "timestamp", tenant_id, user_id, event_name, received_at, processed_at, source, experiment_id, variant,
       metadata, context, reason, error, dead_letter_id, dead_letter_state, failed_at, dead_letters,
       watermark, asked_at
from analytics.where_is_event($1) cross join analytics.freshness
