-- Events of [$1, $2) by buckets of $3 in the zone $4, with the filters $5, by $6, at most $7 series.
select bucket, until, value, other, events from analytics.timeseries($1, $2, $3::text::interval, $4, $5::text::jsonb, $6, $7)
