-- Unique users of [$1, $2) by buckets of $3 in the zone $4, with the filters $5.
select bucket, until, users from analytics.unique_users_by($1, $2, $3::text::interval, $4, $5::text::jsonb)
