-- The $5 values of $3 with the most unique users of [$1, $2), with the filters $4.
select value, users from analytics.unique_users_per($1, $2, $3, $4::text::jsonb, $5)
