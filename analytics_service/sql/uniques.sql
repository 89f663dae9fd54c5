-- Unique users of [$1, $2) with the filters $3, by the method $4.
select users, approximate, error from analytics.unique_users_auto($1, $2, $3::text::jsonb, $4)
