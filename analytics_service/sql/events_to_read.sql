-- How many events of [$1, $2) the filters ($3) on name and tenant let through.
select analytics.events_to_read($1, $2, $3::text::jsonb)
