-- Cohorts of new users of [$1, $2) by periods of $3 in the zone $4, and how many were active in each of the $5 periods after; filters $6.
select cohort, period, begins, until, users from analytics.retention($1, $2, $3::text::interval, $4, $5, $6::text::jsonb)
