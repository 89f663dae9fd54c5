-- The $4 most frequent values of $3 among the events of [$1, $2) that the filters ($5) let through.
select value, events, total from analytics.top($1, $2, $3, $4, $5::text::jsonb)
