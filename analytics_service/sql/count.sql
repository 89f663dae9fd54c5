-- Events of [$1, $2) that the filters ($3) let through.
select analytics.count_events($1, $2, $3::text::jsonb) as events
